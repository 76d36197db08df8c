package rules

import (
	"fmt"
	"strings"
)

// String is the table in nft's language, as `nft -f` reads it.
func (r *Ruleset) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "table ip %s {\n", TableName)
	writePods(&b, EgressMap, r.Egress)
	writePods(&b, IngressMap, r.Ingress)
	self := absent(r.Self(), nil)
	pairs := make([]string, len(self))
	for i, a := range self {
		pairs[i] = fmt.Sprintf("%s . %s", a, a)
	}
	writeSet(&b, "set "+SelfSet, "type ipv4_addr . ipv4_addr", "", pairs)
	for _, name := range sorted(r.Sets) {
		set := r.Sets[name]
		writeSet(&b, "set "+name, set.Type.text(), set.Comment, set.elementTexts())
	}
	for _, name := range sorted(r.Chains) {
		fmt.Fprintf(&b, "\tchain %s {\n", name)
		for _, rule := range r.Chains[name] {
			fmt.Fprintf(&b, "\t\t%s\n", rule)
		}
		b.WriteString("\t}\n\n")
	}
	writeBase(&b, EgressChain, "ip saddr vmap @"+EgressMap)
	b.WriteByte('\n')
	writeBase(&b, IngressChain, "ip daddr vmap @"+IngressMap)
	b.WriteString("}\n")
	return b.String()
}

func writeBase(b *strings.Builder, chain, lookup string) {
	fmt.Fprintf(b, "\tchain %s {\n\t\ttype filter hook forward priority filter; policy accept;\n\t\tct direction reply accept\n"+
		"\t\tct state related accept\n\t\tip saddr . ip daddr @%s accept\n\t\t%s\n\t}\n", chain, SelfSet, lookup)
}

func writePods(b *strings.Builder, name string, pods map[IP]string) {
	all := make(map[IP]bool, len(pods))
	for a := range pods {
		all[a] = true
	}
	texts := make([]string, 0, len(pods))
	for _, a := range absent(all, nil) {
		texts = append(texts, fmt.Sprintf("%s : goto %s", a, pods[a]))
	}
	writeSet(b, "map "+name, "type ipv4_addr : verdict", "", texts)
}

func writeSet(b *strings.Builder, what, kind, comment string, elements []string) {
	fmt.Fprintf(b, "\t%s {\n\t\t%s\n", what, kind)
	if comment != "" {
		fmt.Fprintf(b, "\t\tcomment %q\n", Comment(comment))
	}
	if len(elements) > 0 {
		fmt.Fprintf(b, "\t\telements = { %s }\n", strings.Join(elements, ",\n\t\t\t     "))
	}
	b.WriteString("\t}\n\n")
}

// Comment cuts a comment to what nft takes.
func Comment(text string) string { return text[:min(len(text), 120)] }

func (t Type) text() string {
	return [...]string{"type ipv4_addr", "type ipv4_addr\n\t\tflags interval", "type inet_proto . inet_service\n\t\tflags interval", "type ipv4_addr . inet_proto . inet_service"}[t]
}

func (s Set) elementTexts() []string {
	texts := make([]string, len(s.Elements))
	for i, e := range s.Elements {
		switch s.Type {
		case Addresses:
			texts[i] = e.Addr.String()
		case Blocks:
			texts[i] = e.Addr.String()
			if e.To != e.Addr {
				texts[i] += "-" + e.To.String()
			}
		case Ports:
			texts[i] = fmt.Sprintf("%s . %d", protocolName(e.Protocol), e.First)
			if e.Last != e.First {
				texts[i] += fmt.Sprintf("-%d", e.Last)
			}
		case Endpoints:
			texts[i] = fmt.Sprintf("%s . %s . %d", e.Addr, protocolName(e.Protocol), e.First)
		}
	}
	return texts
}

func (s Set) text() string { return s.Type.text() + strings.Join(s.elementTexts(), ",") }

// String is the rule in nft's language.
func (r Rule) String() string {
	parts := make([]string, 0, len(r.Matches)+1)
	for _, m := range r.Matches {
		parts = append(parts, [...]string{"ip saddr", "ip daddr", "meta l4proto . th dport", "ip daddr . meta l4proto . th dport"}[m.Field]+" @"+m.Set)
	}
	parts = append(parts, strings.TrimSpace([...]string{"accept", "drop", "jump"}[r.Action]+" "+r.Chain))
	return strings.Join(parts, " ")
}
