package signature

import (
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// The examples for other languages in docs/receivers.md must accept what Sign makes and refuse what was changed. A language that is not installed here
// is passed over.
func TestTheExamplesInTheDocumentationVerify(t *testing.T) {
	text, err := os.ReadFile("../../docs/receivers.md")
	if err != nil {
		t.Fatal(err)
	}
	key, err := ParseSecret(vectorSecret)
	if err != nil {
		t.Fatal(err)
	}
	const body = `{"type":"booking.creation","name":"Zoë"}`
	now := time.Now().Unix()
	good := Sign(key, vectorID, now, []byte(body))
	for _, lang := range []struct{ fence, program, check string }{
		{"python", "python3", `
import sys
secret, i, t, s, body = sys.argv[1:]
h = {"webhook-id": i, "webhook-timestamp": t, "webhook-signature": "v1,AAAA v9,x " + s}
b = body.encode()
old = dict(h, **{"webhook-timestamp": str(int(t) - 301)})
print(verify(secret, h, b), verify(secret, h, b + b" "), verify(secret, old, b), verify(secret, dict(h, **{"webhook-id": "x"}), b))
`},
		{"js", "node", `
const [secret, i, t, s, body] = process.argv.slice(-5);
const h = { "webhook-id": i, "webhook-timestamp": t, "webhook-signature": "v1,AAAA v9,x " + s };
const b = Buffer.from(body), name = (x) => (x ? "True" : "False");
const old = { ...h, "webhook-timestamp": String(Number(t) - 301) };
console.log([verify(secret, h, b), verify(secret, h, Buffer.from(body + " ")), verify(secret, old, b), verify(secret, { ...h, "webhook-id": "x" }, b)].map(name).join(" "));
`},
	} {
		m := regexp.MustCompile("(?s)```" + lang.fence + "\n(.*?)```").FindSubmatch(text)
		if m == nil {
			t.Errorf("docs/receivers.md has no example in %s", lang.fence)
			continue
		}
		program, err := exec.LookPath(lang.program)
		if err != nil {
			t.Logf("%s is not installed", lang.program)
			continue
		}
		flag := map[string]string{"python3": "-c", "node": "-e"}[lang.program]
		args := []string{flag, string(m[1]) + lang.check}
		if lang.program == "node" {
			args = append(args, "--")
		}
		out, err := exec.Command(program, append(args, vectorSecret, vectorID, strconv.FormatInt(now, 10), good, body)...).CombinedOutput()
		if err != nil || strings.TrimSpace(string(out)) != "True False False False" {
			t.Errorf("%s: %v\n%s", lang.program, err, out)
		}
	}
}
