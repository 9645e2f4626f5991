package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"

	"github.com/spf13/cobra"

	"github.com/hookferry/hookferry/deliverer/egress"
)

// maxCheckLine bounds a line of standard input: longer than any URL that is admitted, so that a longer one is refused and not cut.
const maxCheckLine = 1 << 20

// checkURLCommand asks the egress policy of the configuration what it admits. It resolves no name: what a name stands for is asked at every dial.
func checkURLCommand(a *app) *cobra.Command {
	var stdin, addresses bool
	c := &cobra.Command{
		Use:   "check-url URL... | --stdin",
		Short: "Say which URLs (or addresses) deliveries may go to",
		Long: "Prints `allowed` or `refused CODE` for each URL, in order, one a line, by the section egress of the configuration; exit 1 if any was refused.\n" +
			"No name is resolved: at each connection the addresses behind a name are checked again.",
		Example: "  hookferry check-url https://hook.example.com/in\n  hookferry check-url --addresses 169.254.169.254\n  hookferry check-url --stdin < urls.txt",
		RunE: func(c *cobra.Command, args []string) error {
			if stdin == (len(args) > 0) {
				return usagef("give URLs, or --stdin with one a line")
			}
			policy, err := a.policy()
			if err != nil {
				return err
			}
			check := checkURL
			if addresses {
				check = checkAddress
			}
			k := &urlChecker{a: a, all: []checkedURL{}, check: func(text string) (string, error) { return check(policy, text) }}
			for _, text := range args {
				if err := k.one(text); err != nil {
					return err
				}
			}
			if stdin {
				if err := k.lines(a.in); err != nil {
					return err
				}
			}
			return k.end()
		},
	}
	c.Flags().BoolVar(&stdin, "stdin", false, "read from standard input, one a line")
	c.Flags().BoolVar(&addresses, "addresses", false, "IP addresses instead of URLs")
	return c
}

// checkURL returns the canonical form.
func checkURL(p *egress.Policy, text string) (string, error) {
	u, err := p.CheckURL(text)
	return u.String(), err
}

func checkAddress(p *egress.Policy, text string) (string, error) {
	addr, err := netip.ParseAddr(text)
	if err != nil {
		return "", &refusal{egress.CodeAddrInvalid, "no IP address"}
	}
	if code, ok := p.CheckAddr(addr); !ok {
		return "", &refusal{code, "the address may not be reached from here"}
	}
	return addr.Unmap().String(), nil
}

// urlChecker prints one line for each text it is given.
type urlChecker struct {
	a       *app
	check   func(text string) (canonical string, err error)
	all     []checkedURL
	refused int
	count   int
}

// checkedURL is a line of --json.
type checkedURL struct {
	Given     string `json:"given"`
	Allowed   bool   `json:"allowed"`
	Code      string `json:"code,omitempty"`
	Reason    string `json:"reason,omitempty"`
	Canonical string `json:"canonical,omitempty"`
}

func (k *urlChecker) one(text string) error {
	k.count++
	canonical, err := k.check(text)
	line := checkedURL{Given: text, Allowed: err == nil}
	if err == nil {
		line.Canonical = canonical
	} else {
		var c coded
		if !errors.As(err, &c) {
			return err
		}
		line.Code, line.Reason = c.Code(), c.Error()
		k.refused++
	}
	if k.a.json {
		k.all = append(k.all, line)
		return nil
	}
	answer := "allowed"
	if err != nil {
		answer = "refused " + line.Code
	}
	_, err = fmt.Fprintln(k.a.out, answer)
	return err
}

// lines takes every line as it is, empty ones too, so that answers and lines stay side by side. Only the line's end is dropped.
func (k *urlChecker) lines(r io.Reader) error {
	s := bufio.NewScanner(r)
	s.Buffer(nil, maxCheckLine)
	for s.Scan() {
		if err := k.one(strings.TrimSuffix(s.Text(), "\r")); err != nil {
			return err
		}
	}
	return s.Err()
}

func (k *urlChecker) end() error {
	if k.a.json {
		if err := k.a.printJSON(k.all); err != nil {
			return err
		}
	}
	if k.refused > 0 {
		return &refusal{"refused", fmt.Sprintf("%d of %d may not be reached from here", k.refused, k.count)}
	}
	return nil
}
