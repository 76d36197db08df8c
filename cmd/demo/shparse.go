package main

import (
	"errors"
	"fmt"
	"strings"
)

// node is one pipeline of a list and the operator before it.
type node struct {
	op    string // "", "&&", "||"
	plain bool   // neither before nor after && or ||
	pipe  []cmd
}

// cmd is a simple command (kind empty) or a compound one with its lists: if cond, then, ..., else; while cond, body.
type cmd struct {
	kind      string
	words     []string // still quoted
	lists     [][]node
	redirects []redirect
}

type redirect struct{ op, target string }

// errMore says that the text ends inside a construct.
var errMore = errors.New("unexpected end of text")

type parser struct {
	toks []string
	pos  int
}

func parse(text string) ([]node, error) {
	toks, err := lex(text)
	if err != nil {
		return nil, err
	}
	p := &parser{toks: toks}
	list, err := p.list()
	if err == nil && p.pos < len(p.toks) {
		err = fmt.Errorf("syntax error near %q", p.toks[p.pos])
	}
	return list, err
}

const operators = ";&|<>\n"

// lex splits into words (with their quotes) and operators.
func lex(text string) ([]string, error) {
	var toks []string
	for i := 0; i < len(text); {
		switch c := text[i]; {
		case c == ' ' || c == '\t' || c == '\r':
			i++
		case c == '#':
			for i < len(text) && text[i] != '\n' {
				i++
			}
		case strings.HasPrefix(text[i:], "2>&1"):
			toks, i = append(toks, "2>&1"), i+4
		case strings.HasPrefix(text[i:], ">&2"), strings.HasPrefix(text[i:], "1>&2"):
			toks, i = append(toks, ">&2"), i+strings.Index(text[i:], "2")+1
		case strings.HasPrefix(text[i:], "2>>"):
			toks, i = append(toks, "2>>"), i+3
		case strings.HasPrefix(text[i:], "2>"):
			toks, i = append(toks, "2>"), i+2
		case strings.IndexByte(operators, c) >= 0:
			n := 1
			if i+1 < len(text) && text[i+1] == c && strings.IndexByte("&|>", c) >= 0 {
				n = 2
			}
			toks, i = append(toks, text[i:i+n]), i+n
		default:
			end, err := wordEnd(text, i)
			if err != nil {
				return nil, err
			}
			toks, i = append(toks, text[i:end]), end
		}
	}
	return toks, nil
}

func wordEnd(text string, i int) (int, error) {
	for i < len(text) {
		switch c := text[i]; {
		case c == '\\':
			i++
		case c == '\'' || c == '"':
			j := i + 1
			for j < len(text) && text[j] != c {
				if c == '"' && text[j] == '\\' {
					j++
				}
				j++
			}
			if j >= len(text) {
				return 0, errMore
			}
			i = j
		case c == ' ' || c == '\t' || strings.IndexByte(operators, c) >= 0:
			return i, nil
		}
		i++
	}
	return min(i, len(text)), nil
}

func (p *parser) peek() string {
	if p.pos < len(p.toks) {
		return p.toks[p.pos]
	}
	return ""
}

func (p *parser) skip(toks ...string) {
	for p.pos < len(p.toks) {
		found := false
		for _, t := range toks {
			found = found || p.toks[p.pos] == t
		}
		if !found {
			return
		}
		p.pos++
	}
}

func isEnd(tok string) bool {
	switch tok {
	case "", "then", "elif", "else", "fi", "do", "done":
		return true
	}
	return false
}

func (p *parser) list() ([]node, error) {
	var list []node
	op := ""
	for {
		p.skip(";", "\n")
		if isEnd(p.peek()) {
			if op != "" {
				return nil, errMore
			}
			return list, nil
		}
		n := node{op: op, plain: op == ""}
		for {
			c, err := p.command()
			if err != nil {
				return nil, err
			}
			n.pipe = append(n.pipe, c)
			if p.peek() != "|" {
				break
			}
			p.pos++
			p.skip("\n")
		}
		op = ""
		switch p.peek() {
		case "&&", "||":
			op, n.plain = p.peek(), false
			p.pos++
		case "&":
			return nil, errors.New("background commands are not supported")
		}
		list = append(list, n)
	}
}

// expect consumes a keyword.
func (p *parser) expect(word string) error {
	switch p.peek() {
	case word:
		p.pos++
		return nil
	case "":
		return errMore
	}
	return fmt.Errorf("syntax error: %q where %q was expected", p.peek(), word)
}

func (p *parser) command() (cmd, error) {
	c := cmd{}
	var err error
	switch p.peek() {
	case "if":
		err = p.ifCommand(&c)
	case "while", "until":
		c.kind = p.peek()
		p.pos++
		err = p.loop(&c)
	case "for":
		c.kind = "for"
		p.pos++
		for p.pos < len(p.toks) && p.peek() != ";" && p.peek() != "\n" && p.peek() != "do" {
			if p.peek() != "in" || len(c.words) != 1 {
				c.words = append(c.words, p.peek())
			}
			p.pos++
		}
		if len(c.words) == 0 {
			return c, errMore
		}
		p.skip(";", "\n")
		err = p.body(&c)
	default:
		return p.simple()
	}
	if err != nil {
		return c, err
	}
	c.redirects, err = p.redirects()
	return c, err
}

func (p *parser) loop(c *cmd) error {
	cond, err := p.list()
	if err != nil {
		return err
	}
	c.lists = append(c.lists, cond)
	return p.body(c)
}

func (p *parser) body(c *cmd) error {
	if err := p.expect("do"); err != nil {
		return err
	}
	body, err := p.list()
	if err != nil {
		return err
	}
	c.lists = append(c.lists, body)
	return p.expect("done")
}

func (p *parser) ifCommand(c *cmd) error {
	c.kind = "if"
	for first := true; first || p.peek() == "elif"; first = false {
		p.pos++
		cond, err := p.list()
		if err != nil {
			return err
		}
		if err := p.expect("then"); err != nil {
			return err
		}
		then, err := p.list()
		if err != nil {
			return err
		}
		c.lists = append(c.lists, cond, then)
	}
	if p.peek() == "else" {
		p.pos++
		otherwise, err := p.list()
		if err != nil {
			return err
		}
		c.lists = append(c.lists, otherwise)
	}
	return p.expect("fi")
}

func isRedirect(tok string) bool {
	switch tok {
	case "<", ">", ">>", "2>", "2>>", "2>&1", ">&2":
		return true
	}
	return false
}

func (p *parser) redirects() (rs []redirect, err error) {
	for isRedirect(p.peek()) {
		r := redirect{op: p.peek()}
		p.pos++
		if r.op != "2>&1" && r.op != ">&2" {
			if p.peek() == "" || strings.Contains(operators, p.peek()) {
				return nil, fmt.Errorf("syntax error: %q without a file", r.op)
			}
			r.target = p.peek()
			p.pos++
		}
		rs = append(rs, r)
	}
	return rs, nil
}

func (p *parser) simple() (cmd, error) {
	c := cmd{}
	for p.pos < len(p.toks) {
		tok := p.peek()
		if isRedirect(tok) {
			rs, err := p.redirects()
			if err != nil {
				return c, err
			}
			c.redirects = append(c.redirects, rs...)
			continue
		}
		if len(tok) <= 2 && strings.IndexByte(operators, tok[0]) >= 0 {
			break
		}
		c.words = append(c.words, tok)
		p.pos++
	}
	if len(c.words) == 0 && len(c.redirects) == 0 {
		return c, fmt.Errorf("syntax error near %q", p.peek())
	}
	return c, nil
}

func isName(s string) bool {
	for i, r := range s {
		if r != '_' && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (i == 0 || r < '0' || r > '9') {
			return false
		}
	}
	return s != ""
}

// expand resolves quotes and variables; an unquoted word that expands to nothing vanishes, and one that is a
// single unquoted variable is split at blanks.
func (s *sh) expand(words []string) []string {
	var out []string
	for _, w := range words {
		v := s.word(w)
		switch {
		case strings.ContainsAny(w, `'"`):
			out = append(out, v)
		case strings.Contains(w, "$") && !strings.Contains(w, "="):
			out = append(out, strings.Fields(v)...)
		case v != "":
			out = append(out, v)
		}
	}
	return out
}

func (s *sh) word(w string) string {
	var b strings.Builder
	quote := byte(0)
	for i := 0; i < len(w); i++ {
		c := w[i]
		switch {
		case quote == '\'' && c != '\'':
			b.WriteByte(c)
		case c == quote:
			quote = 0
		case quote == 0 && (c == '\'' || c == '"'):
			quote = c
		case c == '\\' && i+1 < len(w):
			i++
			if quote == '"' && !strings.ContainsRune("\"\\$`", rune(w[i])) {
				b.WriteByte('\\')
			}
			b.WriteByte(w[i])
		case c == '$' && i+1 < len(w):
			name, n := varName(w[i+1:])
			if n == 0 {
				b.WriteByte(c)
				continue
			}
			b.WriteString(s.get(name))
			i += n
		default:
			b.WriteByte(c)
		}
	}
	return b.String()
}

// varName reads NAME, {NAME} or one special character after a dollar sign and returns how many bytes it took.
func varName(s string) (string, int) {
	if s[0] == '{' {
		if end := strings.IndexByte(s, '}'); end > 0 {
			return s[1:end], end + 1
		}
		return "", 0
	}
	if strings.IndexByte("?$@*#", s[0]) >= 0 || (s[0] >= '0' && s[0] <= '9') {
		return s[:1], 1
	}
	n := 0
	for n < len(s) && isName(s[:n+1]) {
		n++
	}
	return s[:n], n
}
