package criu

import (
	"net/netip"
	"strings"
	"testing"
)

func TestLockRules(t *testing.T) {
	pair := connection{netip.MustParseAddrPort("10.0.0.1:80"), netip.MustParseAddrPort("10.0.0.2:4000")}
	six := connection{netip.MustParseAddrPort("[fd00::1]:80"), netip.MustParseAddrPort("[fd00::2]:4000")}
	ours := map[connection]bool{pair: true, pair.reverse(): true, six: true, six.reverse(): true}
	const in, out = "INPUT -s 10.0.0.2/32 -d 10.0.0.1/32 -p tcp -m mark ! --mark 0xc114 -m tcp --sport 4000 --dport 80 -j DROP",
		"OUTPUT -s 10.0.0.1/32 -d 10.0.0.2/32 -p tcp -m tcp --sport 80 --dport 4000 -m mark ! --mark 0xc114 -j DROP"
	const v6 = "INPUT -s fd00::2/128 -d fd00::1/128 -p tcp -m mark ! --mark 0xc114 -m tcp --sport 4000 --dport 80 -j DROP"
	for _, tt := range []struct {
		name  string
		whole bool
		rules []string
		want  string
		chain bool
	}{
		{"connection", false, []string{in, out, v6}, "-D " + in + "|-D " + out + "|-D " + v6, false},
		{"connection of another container", false, []string{strings.Replace(in, "4000", "4001", 1)}, "", false},
		{"rule of the operator", false, []string{strings.Replace(in, "-m mark ! --mark 0xc114 ", "", 1), strings.Replace(in, "DROP", "ACCEPT", 1)}, "", false},
		{
			"namespace", true,
			[]string{"INPUT -j CRIU", "INPUT -j CRIU", "OUTPUT -j CRIU", "OUTPUT -j ACCEPT", "CRIU -m mark --mark 0xc114 -j ACCEPT", "CRIU -j DROP"},
			"-D INPUT -j CRIU|-D INPUT -j CRIU|-D OUTPUT -j CRIU", true,
		},
		{"namespace, half removed", true, []string{"CRIU -m mark --mark 0xc114 -j ACCEPT", "CRIU -j DROP"}, "", true},
		{"another chain of that name", true, []string{"INPUT -j CRIU", "CRIU -j DROP"}, "", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := netLock{whole: tt.whole, connections: ours}
			got, chain := l.chosen("*filter\n:INPUT ACCEPT [0:0]\n-A " + strings.Join(tt.rules, "\n-A ") + "\nCOMMIT\n")
			if strings.Join(got, "|") != tt.want || chain != tt.chain {
				t.Errorf("got %q, %v, want %q, %v", got, chain, tt.want, tt.chain)
			}
		})
	}
	l := netLock{connections: ours}
	for elements, want := range map[string]bool{
		"10.0.0.1 . 80 . 10.0.0.2 . 4000":                                       true,
		"10.0.0.9 . 80 . 10.0.0.2 . 4000,\n\t\t10.0.0.1 . 80 . 10.0.0.2 . 4000": true,
		"fd00::1 . 80 . fd00::2 . 4000":                                         true,
		"10.0.0.9 . 80 . 10.0.0.2 . 4000":                                       false,
		"":                                                                      false,
	} {
		if got := l.namesOurs("set conns4 {\n\telements = { " + elements + " }\n}"); got != want {
			t.Errorf("%q: got %v, want %v", elements, got, want)
		}
	}
}
