package main

import (
	"bytes"
	"strings"
	"testing"
)

func TestCheckURLAnswersLineByLine(t *testing.T) {
	for _, x := range []struct {
		name, in string
		args     []string
		out      string
		exit     int
	}{
		{"all allowed", "", []string{"https://hook.example/a", "https://8.8.8.8/"}, "allowed\nallowed\n", exitOK},
		{"some refused", "", []string{"https://hook.example/", "http://hook.example/", "https://127.0.0.1/"},
			"allowed\nrefused url_not_https\nrefused address_loopback\n", exitFailed},
		{"standard input", "https://hook.example/\r\n\n https://hook.example/\nhttps://localhost/", []string{"--stdin"},
			"allowed\nrefused url_invalid\nrefused url_invalid\nrefused url_host_local\n", exitFailed},
		{"addresses", "8.8.8.8\n::ffff:10.0.0.1\n169.254.169.254\n2606:4700::1111\nx\n", []string{"--stdin", "--addresses"},
			"allowed\nrefused address_private\nrefused address_metadata\nallowed\nrefused address_invalid\n", exitFailed},
		{"empty input", "", []string{"--stdin"}, "", exitOK},
		{"nothing asked", "", nil, "", exitUsage},
		{"both", "", []string{"--stdin", "https://hook.example/"}, "", exitUsage},
	} {
		var out, errOut bytes.Buffer
		a := &app{in: strings.NewReader(x.in), out: &out, errOut: &errOut}
		if exit := a.main(append([]string{"check-url"}, x.args...)); exit != x.exit || out.String() != x.out {
			t.Errorf("%s: exit %d, %q; want %d, %q\n%s", x.name, exit, out.String(), x.exit, x.out, errOut.String())
		}
	}
}

func TestCheckURLForMachinesShowsTheCanonicalForm(t *testing.T) {
	var out bytes.Buffer
	a := &app{in: strings.NewReader(""), out: &out, errOut: &bytes.Buffer{}}
	if exit := a.main([]string{"check-url", "--json", "HTTPS://Hook.Example:443", "https://10.0.0.1/"}); exit != exitFailed {
		t.Errorf("exit %d", exit)
	}
	for _, want := range []string{`"canonical": "https://hook.example/"`, `"code": "address_private"`} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%s is missing in %s", want, out.String())
		}
	}
}
