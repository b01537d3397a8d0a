package main

import (
	"os"
	"path/filepath"
	"strings"

	"github.com/ckarchive/ckarchive/archive"
	"github.com/ckarchive/ckarchive/registry"
)

// locationKind is what a SRC or DEST on the command line names.
type locationKind uint8

const (
	locationFile    locationKind = iota // an archive file
	locationStream                      // "-": standard input or output
	locationLayout                      // oci:DIR[:TAG]
	locationArchive                     // oci-archive:FILE[:TAG]
	locationImages                      // dir:PATH, CRIU's images as a runtime makes and restores them
	locationName                        // HOST/REPO:TAG[@DIGEST] or a name of the local store
)

// location is a parsed SRC or DEST.
type location struct {
	kind locationKind
	text string             // as it was written
	path string             // of locationFile, locationLayout, locationArchive, locationImages
	tag  string             // of locationLayout, locationArchive; may be empty
	ref  registry.Reference // of locationName
}

// localHost is the host of names that only mean the local store.
const localHost = "localhost"

// parseLocation reads one SRC or DEST. A word is a path if it begins with / or .,
// ends like an archive, or is the name of an existing file.
func parseLocation(s string) (location, error) {
	loc := location{text: s}
	switch scheme, rest, found := strings.Cut(s, ":"); {
	case s == "":
		return loc, usagef("an empty SRC or DEST")
	case s == "-":
		loc.kind = locationStream
		return loc, nil
	case found && scheme == "oci":
		loc.kind = locationLayout
		return loc, loc.splitTag(rest)
	case found && scheme == "oci-archive":
		loc.kind = locationArchive
		return loc, loc.splitTag(rest)
	case found && scheme == "dir":
		if rest == "" {
			return loc, usagef("%q names no path", s)
		}
		loc.kind, loc.path = locationImages, rest
		return loc, nil
	case isPath(s):
		loc.kind, loc.path = locationFile, s
		return loc, nil
	}
	loc.kind = locationName
	ref, err := parseName(s)
	loc.ref = ref
	return loc, err
}

func isPath(whole string) bool {
	s := whole
	if strings.HasPrefix(s, "/") || s == "." || strings.HasPrefix(s, "./") || strings.HasPrefix(s, "../") {
		return true
	}
	s = strings.TrimSuffix(s, ageSuffix)
	for _, suffix := range []string{".tar", ".tar.zst", ".tar.gz", ".tgz", ".tzst"} {
		if strings.HasSuffix(s, suffix) {
			return true
		}
	}
	info, err := os.Stat(whole)
	return err == nil && !info.IsDir()
}

func (l *location) splitTag(rest string) error {
	l.path, l.tag, _ = strings.Cut(rest, ":")
	if l.path == "" {
		return usagef("%q names no path", l.text)
	}
	return nil
}

// parseName reads a name. One without a registry host is of the local store alone.
func parseName(s string) (registry.Reference, error) {
	host, _, found := strings.Cut(s, "/")
	if !found || !strings.ContainsAny(host, ".:") && host != localHost {
		s = localHost + "/" + s
	}
	ref, err := registry.ParseReference(s)
	if err != nil {
		return ref, &usageError{err: err, hint: nameHint(s)}
	}
	return ref, nil
}

// nameHint says how something that is no name may have been meant.
func nameHint(s string) string {
	s = strings.TrimPrefix(s, localHost+"/")
	if name, ok := strings.CutPrefix(s, "docker://"); ok {
		return "the name of an image in a registry is written as it is: " + name
	}
	for _, transport := range []string{"containers-storage", "docker-archive", "docker-daemon"} {
		if strings.HasPrefix(s, transport+":") {
			return "ckarchive reads and writes oci:DIR:TAG, and skopeo copies between that and " + transport + ":"
		}
	}
	return "a file is written with its path: ./" + filepath.Base(s)
}

// onlyLocal tells whether the name has no registry behind it.
func onlyLocal(ref registry.Reference) bool { return ref.Host == localHost }

// compression is the one to write a file with: what the flag says, else what the
// name says, else zstd.
func (l location) compression(flag string) (archive.Compression, error) {
	if flag == "" {
		switch path := strings.TrimSuffix(l.path, ageSuffix); {
		case strings.HasSuffix(path, ".gz"), strings.HasSuffix(path, ".tgz"):
			return archive.Gzip, nil
		case strings.HasSuffix(path, ".tar"):
			return archive.Uncompressed, nil
		}
	}
	c, err := archive.ParseCompression(flag)
	if err != nil {
		return "", &usageError{err: err, hint: "--compress zstd|gzip|none"}
	}
	return c, nil
}
