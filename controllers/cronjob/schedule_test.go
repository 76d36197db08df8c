package cronjob

import (
	"strings"
	"testing"
	"time"

	"github.com/robfig/cron/v3"
	batchv1 "k8s.io/api/batch/v1"
	"k8s.io/utils/ptr"
	"pgregory.net/rapid"
)

func TestParse(t *testing.T) {
	for _, tt := range []struct{ schedule, zone, from, want string }{
		{"*/5 * * * *", "", "2026-01-01T00:01:00Z", "2026-01-01T00:05:00Z"},
		{"0 9-17/4 * * 1-5", "", "2026-01-02T18:00:00Z", "2026-01-05T09:00:00Z"},
		{"30 2 1,15 * *", "", "2026-01-02T00:00:00Z", "2026-01-15T02:30:00Z"},
		{"0 0 * JAN SUN", "", "2026-01-01T00:00:00Z", "2026-01-04T00:00:00Z"},
		{"@hourly", "", "2026-01-01T00:01:00Z", "2026-01-01T01:00:00Z"},
		{"@daily", "Asia/Tokyo", "2026-01-01T00:00:00Z", "2026-01-01T15:00:00Z"},
		{"@weekly", "", "2026-01-01T00:00:00Z", "2026-01-04T00:00:00Z"},
		{"@monthly", "", "2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z"},
		{"@yearly", "", "2026-01-01T00:00:00Z", "2027-01-01T00:00:00Z"},
		{"@annually", "", "2026-01-01T00:00:00Z", "2027-01-01T00:00:00Z"},
		{"@midnight", "", "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"},
		{"@every 90m", "", "2026-01-01T00:00:00Z", "2026-01-01T01:30:00Z"},
		{"30 2 * * *", "Europe/Berlin", "2026-03-28T12:00:00Z", "2026-03-30T00:30:00Z"}, // there is no half past two on the 29th
		{"TZ=Asia/Kolkata 0 6 * * *", "", "2026-01-01T00:00:00Z", "2026-01-01T00:30:00Z"},
	} {
		spec := &batchv1.CronJobSpec{Schedule: tt.schedule}
		if tt.zone != "" {
			spec.TimeZone = ptr.To(tt.zone)
		}
		schedule, err := parse(spec)
		if err != nil {
			t.Errorf("%s: %v", tt.schedule, err)
			continue
		}
		if got := schedule.Next(at(tt.from)).UTC().Format(time.RFC3339); got != tt.want {
			t.Errorf("%s in %q after %s: %s, want %s", tt.schedule, tt.zone, tt.from, got, tt.want)
		}
	}
	for _, bad := range []string{"", "* * * *", "60 * * * *", "@reboot", "@every x", "TZ=Nowhere/Town 0 0 * * *", "TZ=UTC", "CRON_TZ=", "a b c d e"} {
		if _, err := parse(&batchv1.CronJobSpec{Schedule: bad}); err == nil {
			t.Errorf("%q is taken for a schedule", bad)
		}
	}
}

func at(text string) time.Time {
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		panic(err)
	}
	return t
}

func TestStarts(t *testing.T) {
	for _, tt := range []struct {
		schedule, earliest, now string
		due, next               string
		many                    bool
	}{
		{"0 * * * *", "2026-01-01T10:00:00Z", "2026-01-01T10:59:59Z", "", "2026-01-01T11:00:00Z", false},
		{"0 * * * *", "2026-01-01T10:00:00Z", "2026-01-01T11:00:00Z", "2026-01-01T11:00:00Z", "2026-01-01T12:00:00Z", false},
		{"0 * * * *", "2026-01-01T10:00:00Z", "2026-01-05T14:30:00Z", "2026-01-05T14:00:00Z", "2026-01-05T15:00:00Z", false}, // exactly 100
		{"0 * * * *", "2026-01-01T10:00:00Z", "2026-01-05T15:00:00Z", "2026-01-05T15:00:00Z", "2026-01-05T16:00:00Z", true},
		{"30 6-16/4 * * 1-5", "2025-01-01T00:00:00Z", "2026-01-05T05:00:00Z", "2026-01-02T14:30:00Z", "2026-01-05T06:30:00Z", true},
		{"* * * * *", "2001-01-01T00:00:00Z", "2026-01-05T05:00:30Z", "2026-01-05T05:00:00Z", "2026-01-05T05:01:00Z", true},
		{"0 0 29 2 *", "2021-01-01T00:00:00Z", "2026-01-05T05:00:00Z", "2024-02-29T00:00:00Z", "2028-02-29T00:00:00Z", false},
		{"@every 7m", "2026-01-01T10:00:10Z", "2026-01-01T10:20:00Z", "2026-01-01T10:14:10Z", "2026-01-01T10:21:10Z", false},
		{"@every 1s", "2026-01-01T10:00:10Z", "2026-01-01T11:20:00Z", "2026-01-01T11:20:00Z", "2026-01-01T11:20:01Z", true},
		{"0 * * * *", "2026-01-01T12:00:00Z", "2026-01-01T10:30:00Z", "", "2026-01-01T11:00:00Z", false}, // the clock has been put back
	} {
		schedule, err := cron.ParseStandard("TZ=UTC " + tt.schedule)
		if err != nil {
			t.Fatal(err)
		}
		s, err := startsOf(schedule, at(tt.earliest), at(tt.now))
		if err != nil {
			t.Fatal(err)
		}
		due := ""
		if s.due != nil {
			due = s.due.Format(time.RFC3339)
		}
		if due != tt.due || s.many != tt.many || s.next.Format(time.RFC3339) != tt.next {
			t.Errorf("%s from %s to %s: due %q, next %s, many %v", tt.schedule, tt.earliest, tt.now, due, s.next, s.many)
		}
	}
	never, err := cron.ParseStandard("59 23 31 2 *")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := startsOf(never, at("2026-01-01T00:00:00Z"), at("2026-05-01T00:00:00Z")); err == nil || !strings.HasPrefix(err.Error(), "time difference") {
		t.Fatal("a schedule without times:", err)
	}
}

// TestStartsAsCountedOneByOne compares with walking over all times.
func TestStartsAsCountedOneByOne(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.SampledFrom([]string{"* * * * *", "*/7 3-9 * * *", "0 */5 * * 1,3", "15 10 1-7 * *", "@hourly", "@every 13m", "@every 61s", "@weekly"}).Draw(t, "schedule")
		zone := rapid.SampledFrom([]string{"UTC", "Europe/Berlin", "America/New_York", "Asia/Kathmandu"}).Draw(t, "zone")
		schedule, err := cron.ParseStandard("TZ=" + zone + " " + text)
		if err != nil {
			t.Fatal(err)
		}
		earliest := at("2026-03-20T00:00:00Z").Add(time.Duration(rapid.IntRange(0, 20*24*3600).Draw(t, "from")) * time.Second)
		now := earliest.Add(time.Duration(rapid.IntRange(0, 5*24*3600).Draw(t, "for")) * time.Second)
		var due *time.Time
		n := 0
		next := schedule.Next(earliest)
		for ; !next.After(now); next = schedule.Next(next) {
			due = ptr.To(next)
			n++
		}
		s, err := startsOf(schedule, earliest, now)
		if err != nil {
			t.Fatal(err)
		}
		if (s.due == nil) != (due == nil) || due != nil && !s.due.Equal(*due) || s.many != (n > manyMissed) || !s.next.Equal(next) {
			t.Fatalf("due %v, want %v; many %v of %d; next %v, want %v", s.due, due, s.many, n, s.next, next)
		}
	})
}
