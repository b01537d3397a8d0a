package registry

import (
	"fmt"
	"net"
	"regexp"
	"strconv"
	"strings"

	"github.com/opencontainers/go-digest"
)

// DefaultTag is the tag of a reference that names neither tag nor digest.
const DefaultTag = "latest"

// dockerHub is the one registry whose name in references is not its host.
const (
	dockerHub     = "docker.io"
	dockerHubHost = "registry-1.docker.io"
	dockerHubAuth = "https://index.docker.io/v1/"
)

// Reference is a name in a registry: host[:port]/repository[:tag][@digest].
type Reference struct {
	Host       string // lower case, with the port if one was given
	Repository string
	Tag        string        // empty only if there is a digest
	Digest     digest.Digest // what the reference means, if set; the tag is then just a remark
}

var (
	hostPattern       = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*$`)
	repositoryPattern = regexp.MustCompile(`^[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*$`)
	tagPattern        = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$`)
)

// maxRepositoryBytes is the length of host and repository together, as in other tools.
const maxRepositoryBytes = 255

// ParseReference reads a reference. The host must be written: a checkpoint
// holds all that the container knew, and shall not go to a public registry
// because a name was short. The first component is a host if it holds a dot or
// a colon or is "localhost".
func ParseReference(s string) (Reference, error) {
	ref, err := parseReference(s)
	if err != nil {
		return Reference{}, fmt.Errorf("%w %s: %w", ErrReference, quoteName(s), err)
	}
	return ref, nil
}

func parseReference(s string) (Reference, error) {
	host, rest, found := strings.Cut(s, "/")
	switch {
	case strings.Contains(s, "://"):
		return Reference{}, fmt.Errorf("write it without a scheme")
	case !found || !strings.ContainsAny(host, ".:") && !strings.EqualFold(host, "localhost"):
		return Reference{}, fmt.Errorf("no registry host; write HOST/REPOSITORY:TAG")
	}
	ref := Reference{Host: strings.ToLower(host)}
	if err := checkHost(ref.Host); err != nil {
		return Reference{}, err
	}
	rest, dgst, hasDigest := strings.Cut(rest, "@")
	if hasDigest {
		ref.Digest = digest.Digest(dgst)
		if err := checkDigest(ref.Digest); err != nil {
			return Reference{}, fmt.Errorf("digest is not sha256 or sha512 in lower-case hex")
		}
	}
	repository, tag, hasTag := strings.Cut(rest, ":")
	switch {
	case hasTag && !tagPattern.MatchString(tag):
		return Reference{}, fmt.Errorf("tag may hold letters, digits, '.', '_' and '-', at most 128")
	case !repositoryPattern.MatchString(repository):
		return Reference{}, fmt.Errorf("repository may hold lower-case letters, digits and single separators")
	}
	ref.Repository, ref.Tag = repository, tag
	if ref.Host == dockerHub && !strings.Contains(repository, "/") {
		ref.Repository = "library/" + repository
	}
	if len(ref.Host)+1+len(ref.Repository) > maxRepositoryBytes {
		return Reference{}, fmt.Errorf("host and repository exceed %d bytes", maxRepositoryBytes)
	}
	if !hasTag && !hasDigest {
		ref.Tag = DefaultTag
	}
	return ref, nil
}

// checkHost takes a host name, an IPv4 address or an IPv6 address in brackets, with or without a port.
func checkHost(hostport string) error {
	host := hostport
	if i := strings.LastIndexByte(hostport, ':'); i >= 0 && !strings.HasSuffix(hostport, "]") {
		port, err := strconv.ParseUint(hostport[i+1:], 10, 16)
		if err != nil || port == 0 || hostport[i+1] == '+' {
			return fmt.Errorf("port is no number from 1 to 65535")
		}
		host = hostport[:i]
	}
	if strings.HasPrefix(host, "[") && strings.HasSuffix(host, "]") {
		if ip := net.ParseIP(host[1 : len(host)-1]); ip != nil && strings.Contains(host, ":") {
			return nil
		}
		return fmt.Errorf("host is no IPv6 address")
	}
	if !hostPattern.MatchString(host) {
		return fmt.Errorf("host may hold letters, digits, dots and hyphens")
	}
	return nil
}

// Name is the reference without tag and digest.
func (r Reference) Name() string { return r.Host + "/" + r.Repository }

// Identifier is what the registry is asked for: the digest if there is one, else the tag.
func (r Reference) Identifier() string {
	if r.Digest != "" {
		return r.Digest.String()
	}
	return r.Tag
}

// String prints the reference so that ParseReference reads the same again.
func (r Reference) String() string {
	s := r.Name()
	if r.Tag != "" {
		s += ":" + r.Tag
	}
	if r.Digest != "" {
		s += "@" + r.Digest.String()
	}
	return s
}

// endpoint is the host that serves the API of the registry.
func (r Reference) endpoint() string {
	if r.Host == dockerHub {
		return dockerHubHost
	}
	return r.Host
}

// IsLoopback tells whether the registry is on this machine, whatever a name server says.
func (r Reference) IsLoopback() bool { return isLoopback(r.endpoint()) }

// isLoopback tells whether hostport is this machine, whatever a name server says.
func isLoopback(hostport string) bool {
	host := hostport
	if h, _, err := net.SplitHostPort(hostport); err == nil {
		host = h
	}
	host = strings.Trim(host, "[]")
	if host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

// quoteName makes a name that a stranger may have chosen fit for an error.
func quoteName(s string) string {
	if len(s) > 200 {
		return strconv.QuoteToASCII(s[:200]) + "..."
	}
	return strconv.QuoteToASCII(s)
}
