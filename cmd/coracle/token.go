package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/util/duration"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/coracle-dev/coracle/agent/identity"
	"github.com/coracle-dev/coracle/internal/client"
	"github.com/coracle-dev/coracle/internal/paths"
)

// Where tokens lie, and what is in them, as in upstream's k8s.io/cluster-bootstrap.
const (
	tokenPrefix = "bootstrap-token-"
	usagePrefix = "usage-bootstrap-"
	// joinGroup is the group of tokens that may make nodes, kubeadm's.
	joinGroup = "system:bootstrappers:kubeadm:default-node-token"
	// tokenChars are what tokens are made of.
	tokenChars = "abcdefghijklmnopqrstuvwxyz0123456789"
)

var (
	wholeToken = regexp.MustCompile(`\A([a-z0-9]{6})\.([a-z0-9]{16})\z`)
	onlyID     = regexp.MustCompile(`\A[a-z0-9]{6}\z`)
)

func newToken() *cobra.Command {
	cmd := &cobra.Command{Use: "token", Short: "Make, list and delete the tokens by which machines join", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() }}
	var kubeconfig string
	cmd.PersistentFlags().StringVar(&kubeconfig, "kubeconfig", paths.DefaultKubeconfig, "the admin's kubeconfig")
	with := func(run func(ctx context.Context, kube kubernetes.Interface, out io.Writer, args []string) error) func(*cobra.Command, []string) error {
		return func(cmd *cobra.Command, args []string) error {
			kube, err := client.Config{Kubeconfig: kubeconfig, Component: "token"}.Clientset()
			if err != nil {
				return usage("%w; name an administrator's kubeconfig with --kubeconfig", err)
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), 30*time.Second)
			defer cancel()
			return run(ctx, kube, cmd.OutOrStdout(), args)
		}
	}
	var t tokenSpec
	create := &cobra.Command{Use: "create [ID.SECRET]", Short: "Make a token, and print the command by which a machine joins with it", Args: cobra.MaximumNArgs(1),
		RunE: with(t.create)}
	create.Flags().DurationVar(&t.ttl, "ttl", 24*time.Hour, "how long it is valid; 0 for ever")
	create.Flags().StringVar(&t.description, "description", "", "what it is for, to be seen in the list")
	create.Flags().BoolVarP(&t.quiet, "quiet", "q", false, "print only the token")
	cmd.AddCommand(create,
		&cobra.Command{Use: "list", Short: "List the tokens", Args: cobra.NoArgs, RunE: with(listTokens)},
		&cobra.Command{Use: "delete ID...", Short: "Delete tokens, by ID or whole; nodes that joined with them stay", Args: cobra.MinimumNArgs(1), RunE: with(deleteTokens)})
	return cmd
}

// tokenSpec is what the flags of create say.
type tokenSpec struct {
	ttl         time.Duration
	description string
	quiet       bool
}

func (t *tokenSpec) create(ctx context.Context, kube kubernetes.Interface, out io.Writer, args []string) error {
	if t.ttl < 0 {
		return usage("--ttl %v is below 0", t.ttl)
	}
	id, secret := randomText(6), randomText(16)
	if len(args) > 0 {
		m := wholeToken.FindStringSubmatch(args[0])
		if m == nil {
			return usage("a token looks like abcdef.0123456789abcdef")
		}
		id, secret = m[1], m[2]
	}
	server, ca, err := clusterInfo(ctx, kube)
	if err != nil {
		return err
	}
	token, err := identity.NewToken(ca, id, secret)
	if err != nil {
		return err
	}
	_, err = kube.CoreV1().Secrets(metav1.NamespaceSystem).Create(ctx, t.secret(id, secret, time.Now()), metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("a token with the ID %s is there already", id)
	}
	if err != nil {
		return err
	}
	if t.quiet {
		fmt.Fprintln(out, token)
	} else {
		fmt.Fprintf(out, "coracle agent --server %s --token %s\n", server, token)
	}
	return nil
}

// secret is what kubeadm makes of the same wishes.
func (t *tokenSpec) secret(id, secret string, now time.Time) *corev1.Secret {
	s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: tokenPrefix + id}, Type: corev1.SecretTypeBootstrapToken, Data: map[string][]byte{
		"token-id": []byte(id), "token-secret": []byte(secret), "auth-extra-groups": []byte(joinGroup),
		usagePrefix + "signing": []byte("true"), usagePrefix + "authentication": []byte("true"),
	}}
	if t.description != "" {
		s.Data["description"] = []byte(t.description)
	}
	if t.ttl > 0 {
		s.Data["expiration"] = []byte(now.Add(t.ttl).UTC().Format(time.RFC3339))
	}
	return s
}

func randomText(n int) string {
	out := make([]byte, 0, n)
	for buf := make([]byte, 1); len(out) < n; {
		_, _ = rand.Read(buf) // never fails
		if limit := 256 - 256%len(tokenChars); int(buf[0]) < limit {
			out = append(out, tokenChars[int(buf[0])%len(tokenChars)])
		}
	}
	return string(out)
}

// clusterInfo is where and of what CA the cluster says it is.
func clusterInfo(ctx context.Context, kube kubernetes.Interface) (server string, ca []byte, err error) {
	info, err := kube.CoreV1().ConfigMaps(metav1.NamespacePublic).Get(ctx, "cluster-info", metav1.GetOptions{})
	if err != nil {
		return "", nil, fmt.Errorf("the cluster does not say where it is: %w", err)
	}
	config, err := clientcmd.Load([]byte(info.Data["kubeconfig"]))
	if err != nil || config.Clusters[""] == nil {
		return "", nil, fmt.Errorf("the ConfigMap kube-public/cluster-info has no cluster in it")
	}
	return config.Clusters[""].Server, config.Clusters[""].CertificateAuthorityData, nil
}

func listTokens(ctx context.Context, kube kubernetes.Interface, out io.Writer, _ []string) error {
	list, err := kube.CoreV1().Secrets(metav1.NamespaceSystem).List(ctx, metav1.ListOptions{
		FieldSelector: fields.OneTermEqualSelector("type", string(corev1.SecretTypeBootstrapToken)).String()})
	if err != nil {
		return err
	}
	w := tabwriter.NewWriter(out, 0, 8, 3, ' ', 0)
	fmt.Fprintln(w, "TOKEN\tTTL\tEXPIRES\tUSAGES\tDESCRIPTION\tEXTRA GROUPS")
	for i := range list.Items {
		d := list.Items[i].Data
		ttl, expires := "<forever>", "<never>"
		if text := string(d["expiration"]); text != "" {
			ttl, expires = "<invalid>", text
			if at, err := time.Parse(time.RFC3339, text); err == nil {
				ttl = duration.ShortHumanDuration(max(0, time.Until(at)))
			}
		}
		fmt.Fprintf(w, "%s.%s\t%s\t%s\t%s\t%s\t%s\n", d["token-id"], d["token-secret"], ttl, expires,
			orNone(strings.Join(tokenUsages(d), ",")), orNone(string(d["description"])), orNone(string(d["auth-extra-groups"])))
	}
	return w.Flush()
}

func tokenUsages(data map[string][]byte) []string {
	var out []string
	for key, value := range data {
		if name, ok := strings.CutPrefix(key, usagePrefix); ok && string(value) == "true" {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

func orNone(text string) string {
	if text == "" {
		return "<none>"
	}
	return text
}

func deleteTokens(ctx context.Context, kube kubernetes.Interface, out io.Writer, args []string) error {
	ids := make([]string, len(args))
	for i, arg := range args {
		ids[i] = arg
		if token, err := identity.ParseToken(arg); err == nil {
			ids[i] = token.ID
		} else if m := wholeToken.FindStringSubmatch(arg); m != nil {
			ids[i] = m[1]
		}
		if !onlyID.MatchString(ids[i]) {
			return usage("%q is neither a token nor its ID, the six characters before the dot", arg)
		}
	}
	for _, id := range ids {
		err := kube.CoreV1().Secrets(metav1.NamespaceSystem).Delete(ctx, tokenPrefix+id, metav1.DeleteOptions{})
		if apierrors.IsNotFound(err) {
			return fmt.Errorf("there is no token with the ID %s", id)
		}
		if err != nil {
			return err
		}
		fmt.Fprintf(out, "deleted token %s\n", id)
	}
	return nil
}
