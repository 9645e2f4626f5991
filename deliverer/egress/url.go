package egress

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Codes of refused URLs. They are stable: people match on them.
const (
	CodeURLTooLong   = "url_too_long"         // over 2,048 bytes, as given or in canonical form
	CodeURLInvalid   = "url_invalid"          // no URL of the form scheme://host/path, a control character, a space, a backslash, broken UTF-8
	CodeURLNotHTTPS  = "url_not_https"        // another scheme than https (or http where the deployment allows it)
	CodeURLUserinfo  = "url_userinfo"         // user:password@
	CodeURLFragment  = "url_fragment"         // #
	CodeURLPort      = "url_port"             // a port that is not on the operator's list, or not canonical
	CodeURLHost      = "url_host_invalid"     // an empty host, or one with a character or label that no host name has
	CodeURLHostIDNA  = "url_host_not_ascii"   // Unicode in the host, or an xn-- label that does not stand for any
	CodeURLHostIP    = "url_host_ip_form"     // a number that is not a canonical dotted quad (127.1, 0x7f.1, 017700000001), a bad IPv6 literal
	CodeURLHostLocal = "url_host_local"       // a single label or a name that only exists inside a network
	CodeURLHostMeta  = "url_host_metadata"    // the name of a cloud's metadata service
	CodeURLEscape    = "url_percent_encoding" // a percent sign that no two hexadecimal digits follow
)

// Codes lists every code that a Refusal can carry.
func Codes() []string {
	return []string{
		CodeURLTooLong, CodeURLInvalid, CodeURLNotHTTPS, CodeURLUserinfo, CodeURLFragment, CodeURLPort, CodeURLHost, CodeURLHostIDNA, CodeURLHostIP,
		CodeURLHostLocal, CodeURLHostMeta, CodeURLEscape,
		CodeAddrInvalid, CodeAddrUnspecified, CodeAddrPrivate, CodeAddrShared, CodeAddrLoopback, CodeAddrLinkLocal, CodeAddrMetadata, CodeAddrSpecial,
		CodeAddrDocument, CodeAddrMulticast, CodeAddrReserved, CodeAddrDenied, CodeAddrOwn,
	}
}

// A Refusal says why a URL or an address may not be used.
type Refusal struct {
	code     string
	sentence string
}

// Code is the stable code, one of Codes.
func (r *Refusal) Code() string { return r.code }

func (r *Refusal) Error() string { return r.sentence }

func refuse(code, sentence string) error { return &Refusal{code, sentence} }

const maxURL = 2048

// A URL is an admitted URL in canonical form. The zero URL is none.
type URL struct {
	Scheme string // "https" or "http"
	Host   string // lower-case name without a trailing dot, or an IP address without brackets
	Port   uint16 // always set
	Path   string // starts with "/"; escaped as it is sent
	Query  string // with its "?", or empty; escaped as it is sent
}

// String is the canonical text: parsing it again gives the same URL, and the same text.
func (u URL) String() string { return u.Scheme + "://" + u.HostHeader() + u.Path + u.Query }

// Redacted is the canonical text for a log: the values of the query are left out, for they often hold a token.
func (u URL) Redacted() string {
	if u.Query == "" {
		return u.String()
	}
	parts := strings.Split(u.Query[1:], "&")
	for i, part := range parts {
		if name, _, ok := strings.Cut(part, "="); ok {
			parts[i] = name + "=[redacted]"
		} else {
			parts[i] = "[redacted]"
		}
	}
	u.Query = "?" + strings.Join(parts, "&")
	return u.String()
}

// Target is the request target: path and query.
func (u URL) Target() string { return u.Path + u.Query }

// Addr is host:port to dial.
func (u URL) Addr() string { return net.JoinHostPort(u.Host, strconv.Itoa(int(u.Port))) }

// HostHeader is the value of the Host field: the port stands only if it is not the scheme's own.
func (u URL) HostHeader() string {
	host := u.Host
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	if u.Port == defaultPort(u.Scheme) {
		return host
	}
	return host + ":" + strconv.Itoa(int(u.Port))
}

// IP returns the address if the host is one.
func (u URL) IP() (netip.Addr, bool) {
	a, err := netip.ParseAddr(u.Host)
	return a, err == nil
}

func defaultPort(scheme string) uint16 {
	if scheme == "http" {
		return 80
	}
	return 443
}

// CheckURL admits a URL and returns its canonical form, or a *Refusal. It asks no resolver.
func (p *Policy) CheckURL(raw string) (URL, error) {
	u, err := parseURL(raw)
	if err != nil {
		return URL{}, err
	}
	if u.Scheme != "https" && !p.cfg.AllowHTTP {
		return URL{}, refuse(CodeURLNotHTTPS, "only https:// is allowed here")
	}
	if !p.portAllowed(u) {
		return URL{}, refuse(CodeURLPort, fmt.Sprintf("port %d is not allowed here (allowed: %s)", u.Port, p.portList()))
	}
	if a, ok := u.IP(); ok {
		if code, ok := p.CheckAddr(a); !ok {
			return URL{}, refuse(code, "the address "+a.String()+" may not be reached from here")
		}
	}
	return u, nil
}

func (p *Policy) portAllowed(u URL) bool {
	if u.Scheme == "http" && u.Port == 80 {
		return true // whoever allows http allows its port
	}
	for _, port := range p.cfg.Ports {
		if port == 0 || port == int(u.Port) {
			return true
		}
	}
	return false
}

func (p *Policy) portList() string {
	list := make([]string, 0, len(p.cfg.Ports)+1)
	for _, port := range p.cfg.Ports {
		list = append(list, strconv.Itoa(port))
	}
	if p.cfg.AllowHTTP {
		list = append(list, "80 with http")
	}
	return strings.Join(list, ", ")
}

// parseURL is the pure part of admission: one reading of the text, and no second parser ever sees the raw form.
// Where a lenient parser would map, guess or drop something, this one refuses, because the next program on the way might guess otherwise.
func parseURL(raw string) (URL, error) {
	if len(raw) > maxURL {
		return URL{}, refuse(CodeURLTooLong, "a URL has at most 2,048 bytes")
	}
	if !utf8.ValidString(raw) || strings.ContainsFunc(raw, forbiddenAnywhere) {
		return URL{}, refuse(CodeURLInvalid, "a URL holds no space, control character or backslash, and is valid UTF-8")
	}
	scheme, rest, ok := strings.Cut(raw, "://")
	if !ok || scheme == "" {
		return URL{}, refuse(CodeURLInvalid, "a URL starts with https://")
	}
	u := URL{Scheme: lower(scheme)}
	if u.Scheme != "https" && u.Scheme != "http" {
		return URL{}, refuse(CodeURLNotHTTPS, "the scheme must be https")
	}
	if strings.Contains(rest, "#") {
		return URL{}, refuse(CodeURLFragment, "a fragment (#...) never reaches the receiver; leave it out")
	}
	authority := rest
	if i := strings.IndexAny(rest, "/?"); i >= 0 {
		authority, rest = rest[:i], rest[i:]
	} else {
		rest = ""
	}
	if strings.Contains(authority, "@") {
		return URL{}, refuse(CodeURLUserinfo, "no user or password in a URL; use a header for credentials")
	}
	var err error
	if u.Host, u.Port, err = parseAuthority(authority, u.Scheme); err != nil {
		return URL{}, err
	}
	path, query, hasQuery := strings.Cut(rest, "?")
	if path == "" {
		path = "/"
	}
	if u.Path, err = escape(path); err != nil {
		return URL{}, err
	}
	if hasQuery {
		if u.Query, err = escape("?" + query); err != nil {
			return URL{}, err
		}
	}
	if len(u.String()) > maxURL {
		return URL{}, refuse(CodeURLTooLong, "a URL has at most 2,048 bytes, in its percent-encoded form too")
	}
	return u, nil
}

// forbiddenAnywhere holds what has no business in a URL at all; the rest of Unicode is escaped in the path and refused in the host.
func forbiddenAnywhere(r rune) bool {
	return r <= ' ' || r == 0x7f || r == '\\' || r == utf8.RuneError || unicode.IsControl(r) || unicode.IsSpace(r) || unicode.Is(unicode.Cf, r)
}

// lower maps ASCII only: Unicode's mapping would turn a Kelvin sign into a k.
func lower(s string) string {
	return strings.Map(func(r rune) rune {
		if 'A' <= r && r <= 'Z' {
			return r + 'a' - 'A'
		}
		return r
	}, s)
}

// parseAuthority splits host and port and brings both into canonical form.
func parseAuthority(text, scheme string) (host string, port uint16, err error) {
	portText, hasPort := "", false
	if strings.HasPrefix(text, "[") {
		literal, after, ok := strings.Cut(text[1:], "]")
		if !ok {
			return "", 0, refuse(CodeURLHostIP, "the bracket of an IPv6 address is not closed")
		}
		if host, err = canonical6(literal); err != nil {
			return "", 0, err
		}
		if portText, hasPort = strings.CutPrefix(after, ":"); !hasPort && after != "" {
			return "", 0, refuse(CodeURLHost, "only a port may follow the bracket of an IPv6 address")
		}
	} else {
		host, portText, hasPort = strings.Cut(text, ":")
		if host, err = canonicalHost(host); err != nil {
			return "", 0, err
		}
	}
	if !hasPort {
		return host, defaultPort(scheme), nil
	}
	n, err := strconv.ParseUint(portText, 10, 16)
	if err != nil || n == 0 || strconv.FormatUint(n, 10) != portText {
		return "", 0, refuse(CodeURLPort, "a port is a number from 1 to 65535 without leading zeros")
	}
	return host, uint16(n), nil
}

// canonical6 returns the one text of an IPv6 literal; an IPv4 address mapped into IPv6 becomes the IPv4 address that the kernel would use.
func canonical6(literal string) (string, error) {
	a, err := netip.ParseAddr(literal)
	if err != nil || !a.Is6() || a.Zone() != "" {
		return "", refuse(CodeURLHostIP, "an IPv6 address in brackets has no zone and no other form")
	}
	return a.Unmap().String(), nil
}

// canonicalHost returns the lower-case host name, or dotted quad, that will be looked up.
func canonicalHost(text string) (string, error) {
	host := lower(text)
	host = strings.TrimSuffix(host, ".") // one trailing dot only says that the name is complete
	if host == "" || len(host) > 253 {
		return "", refuse(CodeURLHost, "a host name has 1 to 253 characters")
	}
	for _, r := range host {
		if r >= utf8.RuneSelf {
			return "", refuse(CodeURLHostIDNA, "write the host in ASCII (its xn-- form): programs disagree on how to map other letters")
		}
	}
	labels := strings.Split(host, ".")
	last := labels[len(labels)-1]
	if numeric(last) {
		a, err := netip.ParseAddr(host)
		if err != nil || !a.Is4() || a.String() != host || strings.HasSuffix(text, ".") {
			return "", refuse(CodeURLHostIP, "an IPv4 address is four decimal numbers and nothing else")
		}
		return host, nil
	}
	for _, label := range labels {
		if err := checkLabel(label); err != nil {
			return "", err
		}
	}
	return host, checkName(host, labels)
}

// numeric says whether some resolver would take a last label for a number: then the whole host might be an address in disguise.
func numeric(label string) bool {
	if strings.HasPrefix(label, "0x") {
		return true
	}
	return label != "" && strings.Trim(label, "0123456789") == ""
}

func checkLabel(label string) error {
	if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
		return refuse(CodeURLHost, "each part of a host name has 1 to 63 characters and no hyphen at either end")
	}
	for i := range len(label) {
		c := label[i]
		if !('a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '-' || c == '_') {
			return refuse(CodeURLHost, "a host name has letters, digits, hyphens and underscores")
		}
	}
	if encoded, ok := strings.CutPrefix(label, "xn--"); ok && !validALabel(encoded) {
		return refuse(CodeURLHostIDNA, "the label "+label+" does not stand for any letters (IDNA)")
	}
	return nil
}

// localSuffixes are names that mean something only inside a network, ours above all.
var localSuffixes = []string{
	"localhost", "localdomain", "local", "internal", "intranet", "private", "svc", "home.arpa", "home", "lan", "corp", "onion",
}

// metadataNames are the public-looking names of metadata services; the others are covered by localSuffixes.
var metadataNames = []string{
	"metadata.google.internal", "metadata.goog", "instance-data.ec2.internal", "metadata.azure.internal", "metadata.azure.com", "metadata.tencentyun.com",
	"metadata.packet.net", "metadata.platformequinix.com",
}

func checkName(host string, labels []string) error {
	for _, name := range metadataNames {
		if host == name || strings.HasSuffix(host, "."+name) {
			return refuse(CodeURLHostMeta, "metadata services may not be reached")
		}
	}
	if labels[0] == "metadata" && len(labels) == 1 || host == "instance-data" {
		return refuse(CodeURLHostMeta, "metadata services may not be reached")
	}
	if len(labels) == 1 {
		return refuse(CodeURLHostLocal, "a host name needs a domain")
	}
	for _, suffix := range localSuffixes {
		if strings.HasSuffix(host, "."+suffix) {
			return refuse(CodeURLHostLocal, "names under ."+suffix+" exist only inside a network")
		}
	}
	return nil
}

const upperHex = "0123456789ABCDEF"

// escape percent-encodes what may not stand in a request line as it is; what is escaped already stays, in the case it came.
func escape(s string) (string, error) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case c == '%':
			if i+2 >= len(s) || !isHex(s[i+1]) || !isHex(s[i+2]) {
				return "", refuse(CodeURLEscape, "a percent sign must be followed by two hexadecimal digits")
			}
			b.WriteByte(c)
		case c >= utf8.RuneSelf || strings.IndexByte("\"<>^`{|}", c) >= 0:
			b.WriteByte('%')
			b.WriteByte(upperHex[c>>4])
			b.WriteByte(upperHex[c&15])
		default:
			b.WriteByte(c)
		}
	}
	return b.String(), nil
}

func isHex(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F'
}
