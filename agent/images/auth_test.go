package images

import "testing"

func TestKeyringLookup(t *testing.T) {
	var k Keyring
	for _, config := range []string{
		`{"auths":{"https://index.docker.io/v1/":{"username":"hub","password":"x"}}}`,
		`{"auths":{"*.example.com":{"username":"glob","password":"x"},"reg.example.com/team":{"username":"team","password":"x"}}}`,
		`{"localhost:5000":{"username":"old","password":"x"}}`,
		`{"auths":{"gcr.io":{"identitytoken":"t"}}}`,
	} {
		if err := k.Add([]byte(config)); err != nil {
			t.Fatal(err)
		}
	}
	for image, want := range map[string][]string{
		"nginx":                       {"hub"},
		"docker.io/library/nginx:1":   {"hub"},
		"reg.example.com/team/app":    {"team", "glob"},
		"reg.example.com/other":       {"glob"},
		"a.reg.example.com/other":     nil,
		"localhost:5000/x":            {"old"},
		"localhost:5001/x":            nil,
		"gcr.io/p/i":                  {""},
		"quay.io/x/y@sha256:deadbeef": nil,
	} {
		got := k.Lookup(image)
		if len(got) != len(want) {
			t.Errorf("%s: %+v", image, got)
			continue
		}
		for i := range want {
			if got[i].Username != want[i] {
				t.Errorf("%s: %+v", image, got)
			}
		}
	}
	for _, bad := range []string{`x`, `{"auths":{"h":{"auth":"%%"}}}`, `{"auths":{"h":{"auth":"bm9jb2xvbg=="}}}`} {
		if err := k.Add([]byte(bad)); err == nil {
			t.Errorf("%s was taken", bad)
		}
	}
}

func FuzzKeyring(f *testing.F) {
	f.Add([]byte(`{"auths":{"a.b:1/c":{"auth":"YTpi"}}}`), "a.b:1/c/d")
	f.Fuzz(func(_ *testing.T, config []byte, image string) {
		var k Keyring
		if k.Add(config) == nil {
			k.Lookup(image)
		}
	})
}

func TestArchiveName(t *testing.T) {
	for _, c := range [][3]string{
		{"latest", "", ""}, {"v1", "app", "docker.io/library/app:v1"}, {"v1", "app:v1", "docker.io/library/app:v1"},
		{"r.io/a/b:c", "", "r.io/a/b:c"}, {"repo:tag", "", "docker.io/library/repo:tag"}, {"BAD:tag", "", ""},
	} {
		if got := archiveName(c[0], c[1]); got != c[2] {
			t.Errorf("archiveName(%q, %q) = %q, want %q", c[0], c[1], got, c[2])
		}
	}
}
