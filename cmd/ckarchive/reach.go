package main

import (
	"context"
	"os"
	"path/filepath"

	"github.com/ckarchive/ckarchive/oci/signature"
)

// reach is what the command line of a verb names: nothing else is left to it while it reads what others have made.
type reach struct {
	sources []string // SRC
	dests   []string // DEST
	files   []string // others that are read; empty ones, and words that name no file, do no harm
	remote  remoteFlags
	store   bool // the local store is needed, even where neither SRC nor DEST is a name
}

// reader is a command that reads checkpoints and starts no program.
type reader interface {
	// reach tells what it needs; nil means that with these flags it is no reader.
	reach() *reach
}

var _ = []reader{
	&convertCmd{}, &diffCmd{}, &flattenCmd{}, &importCmd{}, &inspectCmd{}, &listCmd{}, &pullCmd{}, &pushCmd{}, &rmCmd{}, &signCmd{}, &tagCmd{}, &verifyCmd{},
}

func (c *convertCmd) reach() *reach {
	return &reach{sources: []string{c.Source}, dests: []string{c.Dest}, files: append(c.Encrypt, c.specFile(c.Bundle), c.ImportPrevious), remote: c.remoteFlags, store: c.To == "ctr"}
}

func (c *diffCmd) reach() *reach {
	return &reach{sources: []string{c.A, c.B}, remote: c.remoteFlags}
}

func (c *flattenCmd) reach() *reach { return &reach{files: c.Encrypt, store: true} }

func (c *importCmd) reach() *reach {
	return &reach{sources: []string{c.Source, c.Parent}, files: append(c.Encrypt, c.specFile(c.Bundle), c.ImportPrevious), store: true}
}

func (c *inspectCmd) reach() *reach {
	return &reach{sources: []string{c.Source}, remote: c.remoteFlags}
}

func (c *listCmd) reach() *reach {
	if c.Containers {
		return nil
	}
	return &reach{store: true}
}

func (c *pullCmd) reach() *reach {
	return &reach{sources: []string{c.Remote}, dests: []string{c.Dest}, files: c.Encrypt, remote: c.remoteFlags}
}

func (c *pushCmd) reach() *reach {
	return &reach{sources: []string{c.Source, c.Parent}, dests: []string{c.Remote}, files: c.Encrypt, remote: c.remoteFlags, store: true}
}

func (c *rmCmd) reach() *reach { return &reach{store: true} }

// A signature is written beside what is signed.
func (c *signCmd) reach() *reach {
	return &reach{sources: []string{c.Source}, dests: []string{c.Source}, files: []string{c.Key}, remote: remoteFlags{connectFlags: c.connectFlags}}
}

func (c *tagCmd) reach() *reach { return &reach{store: true} }

func (c *verifyCmd) reach() *reach {
	return &reach{sources: []string{c.Source}, files: c.Key, remote: c.remoteFlags}
}

// bound finds the boundary of a reader. Credential helpers are programs with needs of their own: they are asked before.
func (a *app) bound(ctx context.Context, r *reach) boundary {
	b := boundary{
		reads: systemFiles(), uses: []string{os.DevNull, "/dev/tty"},
		writes: []string{os.TempDir()},
	}
	b.reads = append(b.reads, a.cli.DecryptIdentity...)
	b.reads = append(b.reads, a.getenv(passphraseFile), defaultTrustFile, a.cli.TrustFile)
	if t, err := a.trusted(); err == nil { // whoever needs it reports the error
		for _, e := range t.Repositories {
			b.reads = append(b.reads, e.Keys...)
		}
	}
	b.reads = append(b.reads, r.files...)
	for _, text := range r.sources {
		b.source(text)
	}
	for _, text := range r.dests {
		b.dest(text)
	}
	client, store := a.client(r.remote), r.store
	for _, text := range append(r.sources, r.dests...) {
		loc, err := parseLocation(text)
		if err != nil || loc.kind != locationName {
			continue
		}
		store = true
		if !onlyLocal(loc.ref) {
			b.network = true
			client.AskHelpers(ctx, loc.ref)
		}
	}
	if store {
		b.writes = append(b.writes, existing(a.cli.Root))
	}
	if b.network {
		b.reads = append(b.reads, client.Reads()...)
	}
	return b
}

// source adds what is read of a SRC; what is wrong with it, the verb reports.
func (b *boundary) source(text string) {
	loc, err := parseLocation(text)
	if err != nil {
		return
	}
	switch loc.kind {
	case locationStream, locationName:
	case locationLayout:
		b.writes = append(b.writes, loc.path) // the lock that keeps the garbage collection away
	default:
		b.reads = append(b.reads, loc.path, loc.path+signature.FileSuffix)
		if info, err := os.Stat(loc.path); err == nil && info.IsDir() && loc.kind == locationFile {
			b.writes = append(b.writes, loc.path) // it may be a layout
		}
	}
}

// dest adds what is written of a DEST.
func (b *boundary) dest(text string) {
	loc, err := parseLocation(text)
	if err != nil {
		return
	}
	switch loc.kind {
	case locationStream, locationName:
	case locationLayout:
		b.writes = append(b.writes, existing(loc.path))
	default:
		b.writes = append(b.writes, filepath.Dir(loc.path)) // under a temporary name first
	}
}

// existing is path, or what is there of the way to it.
func existing(path string) string {
	for {
		if _, err := os.Stat(path); err == nil || path == filepath.Dir(path) {
			return path
		}
		path = filepath.Dir(path)
	}
}

// systemFiles are those that name resolution, TLS and the C library read.
func systemFiles() []string {
	resolver, err := filepath.EvalSymlinks("/etc/resolv.conf")
	if err == nil && filepath.Dir(resolver) != "/etc" {
		resolver = filepath.Dir(resolver) // where it is replaced when the network changes
	}
	return []string{
		resolver,
		"/etc/ca-certificates", "/etc/gai.conf", "/etc/host.conf", "/etc/hosts", "/etc/localtime", "/etc/nsswitch.conf", "/etc/pki",
		"/etc/protocols", "/etc/services", "/etc/ssl", "/lib", "/lib64", "/usr",
	}
}
