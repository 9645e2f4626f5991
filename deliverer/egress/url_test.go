package egress

import (
	"errors"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"
)

// open admits every port, http and every address that can be admitted, so that only the form of a URL is looked at.
func openPolicy(t testing.TB) *Policy {
	return policy(t, Config{AllowHTTP: true, Ports: []int{0}, AllowRanges: []string{"0.0.0.0/0", "::/0"}})
}

func code(err error) string {
	var r interface{ Code() string }
	if errors.As(err, &r) {
		return r.Code()
	}
	return ""
}

func TestCanonicalForm(t *testing.T) {
	p := openPolicy(t)
	for raw, want := range map[string]string{
		"https://hook.example":                      "https://hook.example/",
		"HTTPS://Hook.Example:443/A?b":              "https://hook.example/A?b",
		"http://hook.example:80/":                   "http://hook.example/",
		"http://hook.example:443/":                  "http://hook.example:443/",
		"https://hook.example:8443":                 "https://hook.example:8443/",
		"https://hook.example./x":                   "https://hook.example/x",
		"https://hook.example?a=1":                  "https://hook.example/?a=1",
		"https://hook.example/?":                    "https://hook.example/?",
		"https://hook.example//a/../b/./c":          "https://hook.example//a/../b/./c",
		"https://hook.example/köln?q=ü":             "https://hook.example/k%C3%B6ln?q=%C3%BC",
		"https://hook.example/a%2fb%2F":             "https://hook.example/a%2fb%2F",
		"https://hook.example/a\"<>^`{|}":           "https://hook.example/a%22%3C%3E%5E%60%7B%7C%7D",
		"https://hook.example/a;b,c@d:e":            "https://hook.example/a;b,c@d:e",
		"https://hook.example/?u=https://x@y:1/z?w": "https://hook.example/?u=https://x@y:1/z?w",
		"https://xn--bcher-kva.example/":            "https://xn--bcher-kva.example/",
		"https://a_b.hook.example/":                 "https://a_b.hook.example/",
		"https://r3---sn.hook.example/":             "https://r3---sn.hook.example/",
		"https://93.184.216.34/":                    "https://93.184.216.34/",
		"https://[2606:4700:0:0::1111]/":            "https://[2606:4700::1111]/",
		"https://[::ffff:93.184.216.34]:8443/":      "https://93.184.216.34:8443/",
		"https://1.2.3.4.hook.example/":             "https://1.2.3.4.hook.example/",
	} {
		u, err := p.CheckURL(raw)
		if err != nil || u.String() != want {
			t.Errorf("%s: %q %v, want %q", raw, u.String(), err, want)
			continue
		}
		if again, err := p.CheckURL(u.String()); err != nil || again != u {
			t.Errorf("%s is no fixed point: %v %v", u, again, err)
		}
	}
}

func TestRefusedURLs(t *testing.T) {
	p := policy(t, DefaultConfig())
	for raw, want := range map[string]string{
		"":                                                             CodeURLInvalid,
		"hook.example":                                                 CodeURLInvalid,
		"//hook.example/":                                              CodeURLInvalid,
		"https:hook.example":                                           CodeURLInvalid,
		"https:/hook.example":                                          CodeURLInvalid,
		" https://hook.example/":                                       CodeURLInvalid,
		"https://hook.example/a b":                                     CodeURLInvalid,
		"https://hook.example/a\tb":                                    CodeURLInvalid,
		"https://hook.example/\r\nX: y":                                CodeURLInvalid,
		"https://hook.example/\x00":                                    CodeURLInvalid,
		"https://hook.example/\x7f":                                    CodeURLInvalid,
		"https://hook.example\\@evil/":                                 CodeURLInvalid,
		"https://hook.example/\xff":                                    CodeURLInvalid,
		"https://hook.example/\u202e":                                  CodeURLInvalid,
		"https://hook.example/\u00a0":                                  CodeURLInvalid,
		"http://hook.example/":                                         CodeURLNotHTTPS,
		"ftp://hook.example/":                                          CodeURLNotHTTPS,
		"file:///etc/passwd":                                           CodeURLNotHTTPS,
		"gopher://127.0.0.1:6379/_x":                                   CodeURLNotHTTPS,
		"ht\u212aps://hook.example/":                                   CodeURLNotHTTPS,
		"https://user@hook.example/":                                   CodeURLUserinfo,
		"https://u:p@hook.example/":                                    CodeURLUserinfo,
		"https://@hook.example/":                                       CodeURLUserinfo,
		"https://a@b@hook.example/":                                    CodeURLUserinfo,
		"https://hook.example/#":                                       CodeURLFragment,
		"https://hook.example#@evil/":                                  CodeURLFragment,
		"https://hook.example:22/":                                     CodeURLPort,
		"https://hook.example:80/":                                     CodeURLPort,
		"https://hook.example:/":                                       CodeURLPort,
		"https://hook.example:0/":                                      CodeURLPort,
		"https://hook.example:0443/":                                   CodeURLPort,
		"https://hook.example:+443/":                                   CodeURLPort,
		"https://hook.example:65979/":                                  CodeURLPort,
		"https://hook.example:443:443/":                                CodeURLPort,
		"https:///path":                                                CodeURLHost,
		"https://?x":                                                   CodeURLHost,
		"https://./":                                                   CodeURLHost,
		"https://hook..example/":                                       CodeURLHost,
		"https://.hook.example/":                                       CodeURLHost,
		"https://hook.example../":                                      CodeURLHost,
		"https://-hook.example/":                                       CodeURLHost,
		"https://hook-.example/":                                       CodeURLHost,
		"https://ho,ok.example/":                                       CodeURLHost,
		"https://ho;ok.example/":                                       CodeURLHost,
		"https://ho%6fk.example/":                                      CodeURLHost,
		"https://ho*k.example/":                                        CodeURLHost,
		"https://[::1]x/":                                              CodeURLHost,
		"https://" + strings.Repeat("a", 64) + ".example/":             CodeURLHost,
		"https://" + strings.Repeat("a.", 130) + "example/":            CodeURLHost,
		"https://h\u00f6\u00f6k.example/":                              CodeURLHostIDNA,
		"https://hook\u3002example/":                                   CodeURLHostIDNA,
		"https://\uff48ook.example/":                                   CodeURLHostIDNA,
		"https://hoo\u212a.example/":                                   CodeURLHostIDNA,
		"https://\u2460\u2461\u2466.0.0.1/":                            CodeURLHostIDNA,
		"https://xn--.example/":                                        CodeURLHost,
		"https://xn--a.example/":                                       CodeURLHostIDNA,
		"https://xn--hook-.example/":                                   CodeURLHost,
		"https://xn--0.example/":                                       CodeURLHostIDNA,
		"https://127.1/":                                               CodeURLHostIP,
		"https://0177.0.0.1/":                                          CodeURLHostIP,
		"https://0x7f.0.0.1/":                                          CodeURLHostIP,
		"https://0x7f000001/":                                          CodeURLHostIP,
		"https://2130706433/":                                          CodeURLHostIP,
		"https://127.0.0.1./":                                          CodeURLHostIP,
		"https://127.0.0.256/":                                         CodeURLHostIP,
		"https://127.0.0.0x1/":                                         CodeURLHostIP,
		"https://1.2.3.4.5/":                                           CodeURLHostIP,
		"https://hook.example.0/":                                      CodeURLHostIP,
		"https://[fe80::1%25eth0]/":                                    CodeURLHostIP,
		"https://[::1/":                                                CodeURLHostIP,
		"https://[127.0.0.1]/":                                         CodeURLHostIP,
		"https://localhost/":                                           CodeURLHostLocal,
		"https://LOCALHOST./":                                          CodeURLHostLocal,
		"https://a.localhost/":                                         CodeURLHostLocal,
		"https://intranet/":                                            CodeURLHostLocal,
		"https://printer.local/":                                       CodeURLHostLocal,
		"https://db.internal/":                                         CodeURLHostLocal,
		"https://kubernetes.default.svc/":                              CodeURLHostLocal,
		"https://kubernetes.default.svc.cluster.local/":                CodeURLHostLocal,
		"https://router.home.arpa/":                                    CodeURLHostLocal,
		"https://nas.lan/":                                             CodeURLHostLocal,
		"https://mail.corp/":                                           CodeURLHostLocal,
		"https://abc.onion/":                                           CodeURLHostLocal,
		"https://metadata/":                                            CodeURLHostMeta,
		"https://metadata.google.internal/":                            CodeURLHostMeta,
		"https://metadata.google.internal./computeMetadata":            CodeURLHostMeta,
		"https://x.metadata.goog/":                                     CodeURLHostMeta,
		"https://hook.example/%":                                       CodeURLEscape,
		"https://hook.example/%4":                                      CodeURLEscape,
		"https://hook.example/?a=%zz":                                  CodeURLEscape,
		"https://hook.example/" + strings.Repeat("a", 2048):            CodeURLTooLong,
		"https://hook.example/" + strings.Repeat("\u00fc", 1000):       CodeURLTooLong,
		"https://127.0.0.1/":                                           CodeAddrLoopback,
		"https://[::1]/":                                               CodeAddrLoopback,
		"https://[::ffff:7f00:1]/":                                     CodeAddrLoopback,
		"https://169.254.169.254/latest/meta-data/":                    CodeAddrMetadata,
		"https://10.0.0.1/":                                            CodeAddrPrivate,
		"https://[64:ff9b::7f00:1]/":                                   CodeAddrSpecial,
		"https://0.0.0.0/":                                             CodeAddrUnspecified,
		"https://[::ffff:0:0]/":                                        CodeAddrUnspecified,
		"https://192.0.2.1:8443/" /* allowed port, refused address */ : CodeAddrDocument,
	} {
		u, err := p.CheckURL(raw)
		if code(err) != want {
			t.Errorf("%q: code %q (%v, %s), want %q", raw, code(err), err, u, want)
		}
		if u != (URL{}) {
			t.Errorf("%q: a refused URL was returned", raw)
		}
		if !slices.Contains(Codes(), want) {
			t.Errorf("%q is not among Codes", want)
		}
	}
}

func TestHTTPOnlyWhereTheDeploymentAllowsIt(t *testing.T) {
	p := policy(t, Config{AllowHTTP: true})
	for raw, want := range map[string]string{
		"http://hook.example/": "", "http://hook.example:80/": "", "http://hook.example:8443/": "", "http://hook.example:8080/": CodeURLPort,
		"https://hook.example:80/": CodeURLPort,
	} {
		if _, err := p.CheckURL(raw); code(err) != want {
			t.Errorf("%s: %v, want %q", raw, err, want)
		}
	}
}

func TestRedactedHidesTheQuerysValues(t *testing.T) {
	u, err := policy(t, DefaultConfig()).CheckURL("https://hook.example/a?token=canary&x=&canary")
	if err != nil {
		t.Fatal(err)
	}
	if got, want := u.Redacted(), "https://hook.example/a?token=[redacted]&x=[redacted]&[redacted]"; got != want {
		t.Fatalf("%s, want %s", got, want)
	}
}

func TestALabels(t *testing.T) {
	for label, ok := range map[string]bool{
		"bcher-kva":              true, // bücher
		"mnchen-3ya":             true,
		"fiqs8s":                 true,  // 中国
		"80ak6aa92e":             true,  // Cyrillic look-alike: a valid name, whoever it fools
		"p1ai":                   true,  // рф
		"mgba3gch31f060k":        false, // a zero-width non-joiner inside: clients disagree about it
		"":                       false,
		"a":                      false,
		"abc-":                   false, // only ASCII inside
		"ls8h":                   false, // an emoji is no letter
		"99999999":               false,
		"bcher-kva-":             false,
		strings.Repeat("9", 59):  false,
		strings.Repeat("a", 59):  false,
		"abc-" + "zzzzzzzzzzzzz": false,
	} {
		if got := validALabel(label); got != ok {
			runes, _ := punyDecode(label)
			t.Errorf("xn--%s: %v, want %v (%q)", label, got, ok, string(runes))
		}
	}
}

// Whatever is admitted is a fixed point, goes into a request line as it is, and net/url reads it in the same way.
func FuzzCheckURL(f *testing.F) {
	for _, s := range []string{
		"https://hook.example/a?b=c", "http://[2606:4700::1111]:81/", "https://xn--bcher-kva.example./%2f?ü", "https://1.2.3.4:8443", "https://h.example/?",
		"HTTPS://A.B:443/{}", "https://a.b/\"", "https://[::ffff:1.2.3.4]/",
	} {
		f.Add(s)
	}
	p := openPolicy(f)
	f.Fuzz(func(t *testing.T, raw string) {
		u, err := p.CheckURL(raw)
		if err != nil {
			if !slices.Contains(Codes(), code(err)) {
				t.Fatalf("%q: no stable code: %v", raw, err)
			}
			return
		}
		text := u.String()
		again, err := p.CheckURL(text)
		if err != nil || again != u || again.String() != text {
			t.Fatalf("%q is no fixed point: %v %v", text, again, err)
		}
		if strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r >= 0x7f }) || len(text) > maxURL || u.Target()[0] != '/' {
			t.Fatalf("%q cannot go into a request line", text)
		}
		v, err := url.Parse(text)
		if err != nil {
			t.Fatalf("net/url refuses %q: %v", text, err)
		}
		port := v.Port()
		if v.Scheme != u.Scheme || v.Hostname() != u.Host || v.User != nil || v.Fragment != "" || port != "" && !strings.HasSuffix(u.Addr(), ":"+port) {
			t.Fatalf("net/url reads %q as %#v", text, v)
		}
		if v.Host != u.HostHeader() || v.RequestURI() != u.Target() {
			t.Fatalf("net/url sends %q %q for %q %q", v.Host, v.RequestURI(), u.HostHeader(), u.Target())
		}
	})
}

// Codes are an interface: people look them up.
func TestEveryCodeIsDocumented(t *testing.T) {
	text, err := os.ReadFile("../../docs/receivers.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, code := range Codes() {
		if !strings.Contains(string(text), "`"+code+"`") {
			t.Errorf("%s is not in docs/receivers.md", code)
		}
	}
}
