package main

import (
	"net/url"
	"regexp"
	"strings"
)

// mask stands for a value that may be a secret.
const mask = "********"

// secretName finds the names under which programs are given secrets.
var secretName = regexp.MustCompile(`(?i)pass|pwd|secret|token|key|cred|auth|cookie|private|signature|salt|dsn|session`)

// shownEnvironment is an environment for people to see. Unless secrets are asked for, the values of
// variables with a telling name are masked, and the passwords of URLs.
func shownEnvironment(env []string, secrets bool) []string {
	shown := make([]string, 0, len(env))
	for _, v := range env {
		name, value, _ := strings.Cut(v, "=")
		if !secrets {
			value = maskValue(name, value)
		}
		shown = append(shown, name+"="+value)
	}
	return shown
}

func maskValue(name, value string) string {
	if value == "" || secretName.MatchString(name) {
		return strings.Repeat(mask, min(len(value), 1))
	}
	u, err := url.Parse(value)
	if err != nil && strings.Contains(value, "@") {
		return mask // perhaps a URL, which cannot be taken apart
	}
	if err == nil && u.User != nil {
		if _, ok := u.User.Password(); ok {
			return strings.Replace(value, u.User.String()+"@", u.User.Username()+":"+mask+"@", 1)
		}
	}
	return value
}
