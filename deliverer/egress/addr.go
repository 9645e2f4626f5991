package egress

import "net/netip"

// Codes of refused addresses. They are stable: people match on them.
const (
	CodeAddrInvalid     = "address_invalid"       // no address, or one with a zone
	CodeAddrUnspecified = "address_unspecified"   // 0/8, ::
	CodeAddrPrivate     = "address_private"       // RFC 1918, unique local, site local
	CodeAddrShared      = "address_shared"        // 100.64/10, carrier-grade NAT
	CodeAddrLoopback    = "address_loopback"      // 127/8, ::1
	CodeAddrLinkLocal   = "address_link_local"    // 169.254/16, fe80::/10
	CodeAddrMetadata    = "address_metadata"      // a cloud's metadata service
	CodeAddrSpecial     = "address_special"       // IETF protocol assignments, AS112, relays, benchmarking, tunnels
	CodeAddrDocument    = "address_documentation" // example addresses
	CodeAddrMulticast   = "address_multicast"     //
	CodeAddrReserved    = "address_reserved"      // 240/4, and IPv6 outside 2000::/3
	CodeAddrDenied      = "address_denied"        // the operator's deny list
	CodeAddrOwn         = "address_own"           // an address of this host
)

// rules are the operator's part of a classification.
type rules struct {
	allow, deny []netip.Prefix
}

type class struct {
	prefix netip.Prefix
	code   string
}

func table(code string, prefixes ...string) (cs []class) {
	for _, p := range prefixes {
		cs = append(cs, class{netip.MustParsePrefix(p), code})
	}
	return cs
}

func join(parts ...[]class) (cs []class) {
	for _, p := range parts {
		cs = append(cs, p...)
	}
	return cs
}

// never lists what no operator can allow: there is no receiver behind these addresses, only credentials of this host, or this host itself.
// The metadata addresses come before the ranges that hold them, for the sake of the code.
var never = join(
	table(CodeAddrMetadata,
		"169.254.169.254/32", "169.254.170.2/32", "169.254.170.23/32", // most clouds; AWS tasks and pods
		"169.254.169.253/32", "169.254.169.123/32", // AWS resolver and clock
		"169.254.0.23/32",    // Tencent
		"100.100.100.200/32", // Alibaba
		"192.0.0.192/32",     // Oracle
		"168.63.129.16/32",   // Azure: outside every reserved range, and yet the host's own agent
		"fd00:ec2::/32",      // AWS: fd00:ec2::254, ::23, ::253
		"fd20:ce::254/128",   // Google
		"fd00:42::42/128",    // Scaleway
	),
	table(CodeAddrLinkLocal, "169.254.0.0/16", "fe80::/10"),
	table(CodeAddrUnspecified, "0.0.0.0/8", "::/128"),
	table(CodeAddrMulticast, "224.0.0.0/4", "ff00::/8"),
	table(CodeAddrReserved, "255.255.255.255/32"),
)

// refused4 is every IPv4 range that is not public unicast.
var refused4 = join(
	table(CodeAddrPrivate, "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"),
	table(CodeAddrShared, "100.64.0.0/10"),
	table(CodeAddrLoopback, "127.0.0.0/8"),
	table(CodeAddrSpecial,
		"192.0.0.0/24",    // IETF protocol assignments
		"192.31.196.0/24", // AS112
		"192.52.193.0/24", // AMT
		"192.88.99.0/24",  // 6to4 relay
		"192.175.48.0/24", // AS112
		"198.18.0.0/15"),  // benchmarking
	table(CodeAddrDocument, "192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24"),
	table(CodeAddrReserved, "240.0.0.0/4"),
)

// public6 is the one IPv6 range that may be reached, but for refused6.
var public6 = netip.MustParsePrefix("2000::/3")

var refused6 = join(
	table(CodeAddrDocument, "2001:db8::/32", "3fff::/20"),
	table(CodeAddrSpecial,
		"2001::/23",          // IETF protocol assignments, Teredo and ORCHID among them
		"2002::/16",          // 6to4: carries any IPv4 address inside
		"2620:4f:8000::/48"), // AS112
)

// outside6 gives those IPv6 addresses outside 2000::/3 that people do type a code that says what they are; the rest is reserved.
var outside6 = join(
	table(CodeAddrLoopback, "::1/128"),
	table(CodeAddrPrivate, "fc00::/7", "fec0::/10"),
	table(CodeAddrSpecial, "64:ff9b::/96", "64:ff9b:1::/48"), // NAT64: carries any IPv4 address inside
)

// embeds says where IPv6 addresses carry the IPv4 address that a packet goes to in the end. An operator may allow these ranges (a NAT64 is all the
// way to IPv4 that some networks have), and must not thereby allow what nobody can: behind 64:ff9b::a9fe:a9fe answers a metadata service.
//
// What may never be reached by way of them is what may never be reached in IPv4, and the deny list's IPv4 ranges. Not to be seen in an address are NAT64
// prefixes and 6rd prefixes out of a network's own space, and ISATAP: they look like any other unicast address, so whoever runs a relay for one
// denies the addresses behind it by deny_ranges. IPv4-mapped addresses never come here: they are IPv4 addresses.
var embeds = []struct {
	prefix netip.Prefix
	at     [4]int // the bytes of the IPv4 address
	flip   byte   // what they are XORed with
	guess  bool   // one of several readings, or padding as a rule: only credentials count, for zeros and the like say nothing
}{
	{prefix: netip.MustParsePrefix("64:ff9b::/96"), at: [4]int{12, 13, 14, 15}}, // NAT64
	// NAT64 of local use: how long its prefix is (RFC 6052: 96, 48, 56 or 64) only its operator knows. A reading that is denied denies.
	{prefix: netip.MustParsePrefix("64:ff9b:1::/48"), at: [4]int{12, 13, 14, 15}, guess: true},
	{prefix: netip.MustParsePrefix("64:ff9b:1::/48"), at: [4]int{6, 7, 9, 10}, guess: true},
	{prefix: netip.MustParsePrefix("64:ff9b:1::/48"), at: [4]int{7, 9, 10, 11}, guess: true},
	{prefix: netip.MustParsePrefix("64:ff9b:1::/48"), at: [4]int{9, 10, 11, 12}, guess: true},
	{prefix: netip.MustParsePrefix("2002::/16"), at: [4]int{2, 3, 4, 5}},                 // 6to4
	{prefix: netip.MustParsePrefix("2001::/32"), at: [4]int{12, 13, 14, 15}, flip: 0xff}, // Teredo: the client, obfuscated
	{prefix: netip.MustParsePrefix("::/96"), at: [4]int{12, 13, 14, 15}, guess: true},    // IPv4-compatible: Linux tunnels it where sit0 is up
}

// carried returns why an IPv6 address may not be reached for the sake of the IPv4 address in it, or "".
func carried(a netip.Addr, r *rules) string {
	if a.Is4() || a == netip.IPv6Loopback() { // ::1 is no IPv4-compatible address
		return ""
	}
	b := a.As16()
	for i := range embeds {
		e := &embeds[i]
		if !e.prefix.Contains(a) {
			continue
		}
		v4 := netip.AddrFrom4([4]byte{b[e.at[0]] ^ e.flip, b[e.at[1]] ^ e.flip, b[e.at[2]] ^ e.flip, b[e.at[3]] ^ e.flip})
		if code := find(never, v4); code == CodeAddrMetadata || code == CodeAddrLinkLocal || code != "" && !e.guess {
			return code
		}
		if contains(r.deny, v4) {
			return CodeAddrDenied
		}
	}
	return ""
}

// classify returns "" for an address that may be reached, and otherwise the code of its refusal. It is pure.
// An IPv4 address mapped into IPv6 is the IPv4 address, for the kernel too; what other IPv6 addresses carry, see embeds.
func classify(a netip.Addr, r *rules) string {
	if !a.IsValid() || a.Zone() != "" {
		return CodeAddrInvalid
	}
	a = a.Unmap()
	if code := find(never, a); code != "" {
		return code
	}
	if contains(r.deny, a) {
		return CodeAddrDenied
	}
	if code := carried(a, r); code != "" {
		return code
	}
	if contains(r.allow, a) {
		return ""
	}
	if a.Is4() {
		return find(refused4, a)
	}
	if !public6.Contains(a) {
		if code := find(outside6, a); code != "" {
			return code
		}
		return CodeAddrReserved
	}
	return find(refused6, a)
}

func find(cs []class, a netip.Addr) string {
	for _, c := range cs {
		if c.prefix.Contains(a) {
			return c.code
		}
	}
	return ""
}

func contains(ps []netip.Prefix, a netip.Addr) bool {
	for _, p := range ps {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// neverRange says whether a whole prefix lies inside a range of never.
func neverRange(p netip.Prefix) bool {
	for _, c := range never {
		if c.prefix.Bits() <= p.Bits() && c.prefix.Contains(p.Addr()) {
			return true
		}
	}
	return false
}
