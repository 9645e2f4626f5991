package egress

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"testing"
)

func policy(t testing.TB, c Config) *Policy {
	t.Helper()
	p, err := NewPolicy(c)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// The contract's list, written down a second time: the tables of addr.go must refuse exactly this, edge for edge.
var contract4 = []string{
	"0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24", "192.31.196.0/24",
	"192.52.193.0/24", "192.88.99.0/24", "192.168.0.0/16", "192.175.48.0/24", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4",
	"240.0.0.0/4",
}

var contract6 = []string{"2001::/23", "2001:db8::/32", "2002::/16", "2620:4f:8000::/48", "3fff::/20"}

// azure is refused beyond the contract's list: a public address that is the host's own agent.
var azure = netip.MustParseAddr("168.63.129.16")

func inAny(list []string, a netip.Addr) bool {
	for _, text := range list {
		if netip.MustParsePrefix(text).Contains(a) {
			return true
		}
	}
	return false
}

func wantAllowed(a netip.Addr) bool {
	a = a.Unmap()
	if a.Is4() {
		return a != azure && !inAny(contract4, a)
	}
	return inAny([]string{"2000::/3"}, a) && !inAny(contract6, a)
}

// last is the highest address of a prefix.
func last(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

func TestEveryRangeIsRefusedFromItsFirstToItsLastAddressAndNoFurther(t *testing.T) {
	check := func(a netip.Addr) {
		if !a.IsValid() {
			return
		}
		if code := classify(a, &rules{}); (code == "") != wantAllowed(a) {
			t.Errorf("%s: %q, want allowed %v", a, code, wantAllowed(a))
		}
	}
	ranges := append(append([]string{"2000::/3", "::ffff:0:0/96", "fc00::/7", "fe80::/10", "ff00::/8", "64:ff9b::/96"}, contract4...), contract6...)
	for _, cs := range [][]class{never, refused4, refused6, outside6} {
		for _, c := range cs {
			ranges = append(ranges, c.prefix.String())
		}
	}
	for _, text := range ranges {
		p := netip.MustParsePrefix(text)
		for _, a := range []netip.Addr{p.Addr(), last(p)} {
			check(a)
			check(a.Prev())
			check(a.Next())
			if a.Is4() {
				check(netip.AddrFrom16(a.As16())) // mapped
			}
		}
	}
}

func TestEveryFirstTwoBytesOfIPv4(t *testing.T) {
	for n := range uint32(1 << 16) {
		var b [4]byte
		binary.BigEndian.PutUint32(b[:], n<<16|0x1234)
		a := netip.AddrFrom4(b)
		if code := classify(a, &rules{}); (code == "") != wantAllowed(a) {
			t.Fatalf("%s: %q", a, code)
		}
	}
}

func TestCodesOfWellKnownAddresses(t *testing.T) {
	p := policy(t, DefaultConfig())
	for text, want := range map[string]string{
		"8.8.8.8": "", "1.1.1.1": "", "93.184.216.34": "", "2606:4700:4700::1111": "", "::ffff:8.8.8.8": "",
		"127.0.0.1": CodeAddrLoopback, "::1": CodeAddrLoopback, "::ffff:127.0.0.1": CodeAddrLoopback,
		"0.0.0.0": CodeAddrUnspecified, "::": CodeAddrUnspecified,
		"10.1.2.3": CodeAddrPrivate, "172.31.255.255": CodeAddrPrivate, "192.168.0.1": CodeAddrPrivate, "fd00::1": CodeAddrPrivate,
		"100.64.0.1":      CodeAddrShared,
		"169.254.169.254": CodeAddrMetadata, "100.100.100.200": CodeAddrMetadata, "192.0.0.192": CodeAddrMetadata, "fd00:ec2::254": CodeAddrMetadata,
		"168.63.129.16": CodeAddrMetadata,
		"169.254.1.1":   CodeAddrLinkLocal, "fe80::1": CodeAddrLinkLocal, "fe80::1%eth0": CodeAddrInvalid,
		"224.0.0.1": CodeAddrMulticast, "ff02::1": CodeAddrMulticast, "255.255.255.255": CodeAddrReserved, "240.0.0.1": CodeAddrReserved,
		"198.18.0.1": CodeAddrSpecial, "192.0.2.1": CodeAddrDocument, "2001:db8::1": CodeAddrDocument,
		"64:ff9b::7f00:1": CodeAddrSpecial, "2002:7f00:1::": CodeAddrSpecial, "2001::1": CodeAddrSpecial, "4000::1": CodeAddrReserved,
		"::7f00:1": CodeAddrReserved, // IPv4-compatible, long forgotten
	} {
		code, ok := p.CheckAddr(netip.MustParseAddr(text))
		if code != want || ok != (want == "") {
			t.Errorf("%s: %q %v, want %q", text, code, ok, want)
		}
	}
	if code, ok := p.CheckAddr(netip.Addr{}); ok || code != CodeAddrInvalid {
		t.Errorf("no address: %q %v", code, ok)
	}
}

func TestOperatorsRanges(t *testing.T) {
	p := policy(t, Config{AllowRanges: []string{"0.0.0.0/0", "::/0"}, DenyRanges: []string{"8.8.0.0/16", "10.9.0.0/16"}})
	for text, want := range map[string]string{
		"10.1.2.3": "", "127.0.0.1": "", "::1": "", "192.0.2.1": "", "fd00::1": "",
		"8.8.8.8": CodeAddrDenied, "10.9.1.1": CodeAddrDenied, "::ffff:8.8.8.8": CodeAddrDenied,
		// Whatever is allowed, these are not.
		"169.254.169.254": CodeAddrMetadata, "::ffff:169.254.169.254": CodeAddrMetadata, "169.254.1.1": CodeAddrLinkLocal, "fe80::1": CodeAddrLinkLocal,
		"fd00:ec2::254": CodeAddrMetadata, "100.100.100.200": CodeAddrMetadata, "0.0.0.0": CodeAddrUnspecified, "::": CodeAddrUnspecified,
		"224.0.0.1": CodeAddrMulticast,
	} {
		if code, _ := p.CheckAddr(netip.MustParseAddr(text)); code != want {
			t.Errorf("%s: %q, want %q", text, code, want)
		}
	}
}

// wrap writes an IPv4 address into an IPv6 one, beginning at the byte of the first octet; skip8: byte 8 is left zero (RFC 6052).
func wrap(prefix string, v4 netip.Addr, first int, flip byte, skip8 bool) netip.Addr {
	b, at := netip.MustParseAddr(prefix).As16(), first
	for _, octet := range v4.As4() {
		if skip8 && at == 8 {
			at++
		}
		b[at] = octet ^ flip
		at++
	}
	return netip.AddrFrom16(b)
}

// Whatever way an IPv6 address carries an IPv4 address that nobody may allow, or that the operator denies: it is refused though the way is allowed,
// from the first to the last address of each range, and no further.
func TestAnAllowedWayToIPv4AllowsNothingThatIsNeverReached(t *testing.T) {
	r, err := Config{AllowRanges: []string{"0.0.0.0/0", "::/0"}, DenyRanges: []string{"8.8.0.0/16"}}.rules()
	if err != nil {
		t.Fatal(err)
	}
	ways := map[string]struct {
		of    func(v4 netip.Addr) netip.Addr
		guess bool // only credentials and the deny list count
	}{
		"NAT64":           {of: func(a netip.Addr) netip.Addr { return wrap("64:ff9b::", a, 12, 0, false) }},
		"6to4":            {of: func(a netip.Addr) netip.Addr { return wrap("2002::1", a, 2, 0, false) }},
		"Teredo":          {of: func(a netip.Addr) netip.Addr { return wrap("2001:0:4136:e378:8000:63bf::", a, 12, 0xff, false) }},
		"local NAT64 /96": {func(a netip.Addr) netip.Addr { return wrap("64:ff9b:1::", a, 12, 0, true) }, true},
		"local NAT64 /64": {func(a netip.Addr) netip.Addr { return wrap("64:ff9b:1::", a, 9, 0, true) }, true},
		"local NAT64 /56": {func(a netip.Addr) netip.Addr { return wrap("64:ff9b:1::", a, 7, 0, true) }, true},
		"local NAT64 /48": {func(a netip.Addr) netip.Addr { return wrap("64:ff9b:1::", a, 6, 0, true) }, true},
		"IPv4-compatible": {func(a netip.Addr) netip.Addr { return wrap("::", a, 12, 0, false) }, true},
	}
	var edges []netip.Addr
	ranges := []string{"8.8.0.0/16", "10.0.0.0/8", "127.0.0.1/32", "1.1.1.1/32"}
	for _, c := range never {
		if c.prefix.Addr().Is4() {
			ranges = append(ranges, c.prefix.String())
		}
	}
	for _, text := range ranges {
		p := netip.MustParsePrefix(text)
		for _, a := range []netip.Addr{p.Addr(), last(p), p.Addr().Prev(), last(p).Next()} {
			if a.IsValid() {
				edges = append(edges, a)
			}
		}
	}
	for name, way := range ways {
		for _, v4 := range edges {
			want, a := classify(v4, r), way.of(v4)
			if a == netip.IPv6Loopback() || a == netip.IPv6Unspecified() {
				continue
			}
			if way.guess && want != CodeAddrMetadata && want != CodeAddrLinkLocal && want != CodeAddrDenied {
				want = ""
			}
			if code := classify(a, r); code != want {
				t.Errorf("%s of %s (%s): %q, want %q", name, v4, a, code, want)
			}
		}
	}
	// Written down by hand, and the neighbours of the ranges, where the same bytes mean nothing.
	for text, want := range map[string]string{
		"64:ff9b::a9fe:a9fe": CodeAddrMetadata, "64:ff9b::169.254.1.1": CodeAddrLinkLocal, "64:ff9b::8.8.4.4": CodeAddrDenied, "64:ff9b::8.9.0.0": "",
		"2002:a9fe:a9fe::": CodeAddrMetadata, "2002:a9fe:a9fe:ffff:ffff:ffff:ffff:ffff": CodeAddrMetadata, "2002:808:808::1": CodeAddrDenied,
		"2002:a9fd:ffff:ffff:ffff:ffff:ffff:ffff": "", "2002:a9ff::": "", "2001:ffff:ffff:ffff:ffff:ffff:ffff:ffff": "", "2003:a9fe:a9fe::": "",
		"2001::5601:5601": CodeAddrMetadata, "2001:1::5601:5601": "", "::a9fe:a9fe": CodeAddrMetadata, "::1:a9fe:a9fe": "", "::1": "",
		"64:ff9b:0:0:0:1:a9fe:a9fe": "", "64:ff9a:ffff:ffff:ffff:ffff:a9fe:a9fe": "", "64:ff9b:2::a9fe:a9fe": "", "64:ff9b:1::a9fe:a9fe": CodeAddrMetadata,
		"64:ff9b:1:a9fe:a9:fe00::": CodeAddrMetadata, // RFC 6052, section 2.2: a prefix of 48 bits
	} {
		if code := classify(netip.MustParseAddr(text), r); code != want {
			t.Errorf("%s: %q, want %q", text, code, want)
		}
	}
}

func TestConfigReportsEveryMistakeAtOnce(t *testing.T) {
	err := Config{
		Ports: []int{-1, 70000}, AllowRanges: []string{"10.0.0.1", "10.0.0.1/8", "169.254.0.0/16", "fd00:ec2::254/128"},
		DenyRanges: []string{"::ffff:1.2.3.0/120"}, ForwardProxy: "http://proxy",
	}.Validate()
	var joined interface{ Unwrap() []error }
	if !errors.As(err, &joined) || len(joined.Unwrap()) != 8 {
		t.Fatalf("want 8 mistakes: %v", err)
	}
	if DefaultConfig().Validate() != nil {
		t.Fatal("the default is invalid")
	}
}

func TestTheHostsOwnAddressesAreRefused(t *testing.T) {
	p := policy(t, DefaultConfig())
	public := netip.MustParseAddr("93.184.216.34")
	p.ownAddresses() // reads the kernel's
	p.own.Load().addrs[public] = true
	for _, a := range []netip.Addr{public, netip.AddrFrom16(public.As16())} {
		if code, ok := p.CheckAddr(a); ok || code != CodeAddrOwn {
			t.Errorf("%s: %q %v", a, code, ok)
		}
	}
	if !p.ownAddresses()[netip.MustParseAddr("127.0.0.1")] {
		t.Error("this host's loopback address was not found")
	}
}

func FuzzClassify(f *testing.F) {
	f.Add([]byte{127, 0, 0, 1})
	f.Add(netip.MustParseAddr("2002:7f00:1::").AsSlice())
	f.Fuzz(func(t *testing.T, b []byte) {
		a, ok := netip.AddrFromSlice(b)
		if !ok {
			return
		}
		code := classify(a, &rules{})
		if (code == "") != wantAllowed(a) {
			t.Fatalf("%s: %q", a, code)
		}
		if classify(a.Unmap(), &rules{}) != code {
			t.Fatalf("%s: mapping changes the answer", a)
		}
	})
}
