package main

import (
	"slices"
	"testing"
)

func TestShownEnvironment(t *testing.T) {
	env := []string{
		"PATH=/bin", "DB_PASSWORD=x1", "API_KEY=x2", "GITHUB_TOKEN=x3", "EMPTY_SECRET=", "URL=https://u:x4@host.test/p?a=b@c",
		"PLAIN=https://host.test/?q=@", "BROKEN=pg://u:%zz@host", "NOVALUE", "LONG=a=b=c",
	}
	want := []string{
		"PATH=/bin", "DB_PASSWORD=" + mask, "API_KEY=" + mask, "GITHUB_TOKEN=" + mask, "EMPTY_SECRET=", "URL=https://u:" + mask + "@host.test/p?a=b@c",
		"PLAIN=https://host.test/?q=@", "BROKEN=" + mask, "NOVALUE=", "LONG=a=b=c",
	}
	if got := shownEnvironment(env, false); !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	if got := shownEnvironment(env, true); got[1] != "DB_PASSWORD=x1" || got[5] != env[5] {
		t.Errorf("asked for, and not shown: %q", got)
	}
}
