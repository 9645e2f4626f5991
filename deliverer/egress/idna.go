package egress

import (
	"unicode"
	"unicode/utf8"
)

// Punycode's parameters (RFC 3492, section 5).
const (
	punyBase, punyTMin, punyTMax = 36, 1, 26
	punySkew, punyDamp           = 38, 700
	punyInitialBias              = 72
	punyInitialN                 = 128
)

// validALabel says whether what follows "xn--" stands for a label that needs the encoding: it decodes, holds a letter beyond ASCII and only letters,
// marks, digits and hyphens, nothing that a mapping would change, and encodes to the same text again. Only the ASCII form is ever looked up, so this
// guards the people who read the name, not the dial.
func validALabel(encoded string) bool {
	runes, ok := punyDecode(encoded)
	if !ok || len(runes) == 0 || unicode.IsMark(runes[0]) {
		return false
	}
	beyond := false
	for _, r := range runes {
		beyond = beyond || r >= utf8.RuneSelf
		if r != '-' && !unicode.IsLetter(r) && !unicode.IsMark(r) && !unicode.IsDigit(r) {
			return false
		}
		if unicode.ToLower(r) != r || fullWidth(r) {
			return false
		}
	}
	return beyond && punyEncode(runes) == encoded
}

// fullWidth letters and digits look like ASCII and are mapped to it by every lenient client.
func fullWidth(r rune) bool { return 0xff00 <= r && r <= 0xffef || 0x1d400 <= r && r <= 0x1d7ff }

func punyAdapt(delta, points int, first bool) int {
	if first {
		delta /= punyDamp
	} else {
		delta /= 2
	}
	delta += delta / points
	k := 0
	for ; delta > (punyBase-punyTMin)*punyTMax/2; k += punyBase {
		delta /= punyBase - punyTMin
	}
	return k + (punyBase-punyTMin+1)*delta/(delta+punySkew)
}

func punyThreshold(k, bias int) int { return min(max(k-bias, punyTMin), punyTMax) }

// punyDecode decodes a lower-case label of at most 63 bytes; sums stay far below an int's end because every step is checked against Unicode's.
func punyDecode(s string) ([]rune, bool) {
	var out []rune
	for i := len(s) - 1; i >= 0; i-- {
		if s[i] == '-' {
			out, s = []rune(s[:i]), s[i+1:]
			break
		}
	}
	n, i, bias := punyInitialN, 0, punyInitialBias
	for pos := 0; pos < len(s); {
		old, w := i, 1
		for k := punyBase; ; k += punyBase {
			if pos == len(s) {
				return nil, false
			}
			digit := punyDigit(s[pos])
			pos++
			if digit < 0 {
				return nil, false
			}
			i += digit * w
			t := punyThreshold(k, bias)
			if digit < t {
				break
			}
			if w *= punyBase - t; w > 1<<26 || i > 1<<30 {
				return nil, false
			}
		}
		points := len(out) + 1
		bias = punyAdapt(i-old, points, old == 0)
		n, i = n+i/points, i%points
		if n > unicode.MaxRune || 0xd800 <= n && n <= 0xdfff {
			return nil, false
		}
		out = append(out[:i], append([]rune{rune(n)}, out[i:]...)...)
		i++
	}
	return out, true
}

func punyDigit(c byte) int {
	switch {
	case 'a' <= c && c <= 'z':
		return int(c - 'a')
	case '0' <= c && c <= '9':
		return int(c-'0') + 26
	}
	return -1
}

func punyEncode(runes []rune) string {
	var out []byte
	for _, r := range runes {
		if r < utf8.RuneSelf {
			out = append(out, byte(r))
		}
	}
	basic := len(out)
	done := basic
	if basic > 0 {
		out = append(out, '-')
	}
	n, delta, bias := punyInitialN, 0, punyInitialBias
	for done < len(runes) {
		next := int(unicode.MaxRune) + 1
		for _, r := range runes {
			if int(r) >= n {
				next = min(next, int(r))
			}
		}
		delta += (next - n) * (done + 1)
		n = next
		for _, r := range runes {
			if int(r) < n {
				delta++
			}
			if int(r) != n {
				continue
			}
			q := delta
			for k := punyBase; ; k += punyBase {
				t := punyThreshold(k, bias)
				if q < t {
					break
				}
				out = append(out, punyChar(t+(q-t)%(punyBase-t)))
				q = (q - t) / (punyBase - t)
			}
			out = append(out, punyChar(q))
			bias = punyAdapt(delta, done+1, done == basic)
			delta = 0
			done++
		}
		delta++
		n++
	}
	return string(out)
}

func punyChar(digit int) byte {
	if digit < 26 {
		return byte('a' + digit)
	}
	return byte('0' + digit - 26)
}
