package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/registry/remote/auth"
)

// Repository is one repository of a registry. It may be used concurrently.
type Repository struct {
	client *Client
	ref    Reference
	host   *host
	auth   *auth.Client
}

var _ oras.Target = (*Repository)(nil)

// Reference is what the repository was opened with.
func (r *Repository) Reference() Reference { return r.ref }

// send asks for a path below the repository, with the right to do actions there.
func (r *Repository) send(ctx context.Context, method, path string, query url.Values, x exchange, actions ...string) (*http.Response, error) {
	scheme, err := r.host.resolveScheme(ctx)
	if err != nil {
		return nil, classify(err)
	}
	x.method = method
	if x.url == nil {
		x.url = &url.URL{Scheme: scheme, Host: r.host.endpoint, Path: "/v2/" + r.ref.Repository + path, RawQuery: query.Encode()}
	}
	ctx = auth.AppendScopesForHost(ctx, r.host.endpoint, auth.ScopeRepository(r.ref.Repository, actions...))
	return send(ctx, r.auth.Do, x)
}

func (r *Repository) named(identifier string) string {
	if identifier == "" {
		return r.ref.String()
	}
	if digest.Digest(identifier).Validate() == nil {
		return r.ref.Name() + "@" + identifier
	}
	return r.ref.Name() + ":" + identifier
}

// Resolve finds what a tag or a digest leads to. The empty identifier is the
// one that the repository was opened with.
func (r *Repository) Resolve(ctx context.Context, identifier string) (ocispec.Descriptor, error) {
	desc, err := r.resolve(ctx, identifier)
	return desc, opError("resolve", r.named(identifier), err)
}

func (r *Repository) resolve(ctx context.Context, identifier string) (ocispec.Descriptor, error) {
	if identifier == "" {
		identifier = r.ref.Identifier()
	}
	want := digest.Digest(identifier)
	if checkDigest(want) != nil {
		if !tagPattern.MatchString(identifier) {
			return ocispec.Descriptor{}, fmt.Errorf("%w: neither a tag nor a digest", ErrReference)
		}
		want = ""
	}
	desc, err := r.headManifest(ctx, identifier, http.MethodHead)
	if desc.Digest == "" && err == nil {
		// Some registries do not tell the digest; the content does.
		desc, err = r.headManifest(ctx, identifier, http.MethodGet)
	}
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	if want != "" && desc.Digest != want {
		return ocispec.Descriptor{}, contentf("the registry answers with %s", desc.Digest)
	}
	return desc, checkDescriptor(desc)
}

// headManifest asks for a manifest and describes it. With HEAD the digest may remain unknown.
func (r *Repository) headManifest(ctx context.Context, identifier, method string) (ocispec.Descriptor, error) {
	resp, err := r.send(ctx, method, "/manifests/"+identifier, nil, exchange{header: http.Header{"Accept": manifestTypes()}}, auth.ActionPull)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	defer drain(resp)
	desc := ocispec.Descriptor{MediaType: contentType(resp), Size: resp.ContentLength}
	if !isManifest(desc.MediaType) {
		return desc, notManifest(desc.MediaType)
	}
	if method == http.MethodGet {
		raw, err := io.ReadAll(io.LimitReader(resp.Body, MaxManifestBytes+1))
		if err != nil {
			return desc, classify(err)
		}
		if len(raw) > MaxManifestBytes {
			return desc, contentf("manifest is longer than %d bytes", MaxManifestBytes)
		}
		desc.Digest, desc.Size = digest.FromBytes(raw), int64(len(raw))
		return desc, nil
	}
	desc.Digest = digest.Digest(resp.Header.Get("Docker-Content-Digest"))
	if desc.Size < 0 {
		desc.Digest = ""
	}
	if desc.Digest == "" {
		return desc, nil
	}
	return desc, checkDigest(desc.Digest)
}

func notManifest(mediaType string) error {
	if mediaType == "text/html" {
		return contentf("the answer is a web page: not a registry")
	}
	return contentf("the answer is no manifest (type %s)", quoteName(mediaType))
}

// Fetch opens a manifest or a blob. The reader, which the caller closes, says
// io.EOF only if the content matches its digest. A blob whose transfer breaks
// is continued where it broke.
func (r *Repository) Fetch(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	if err := checkDescriptor(desc); err != nil {
		return nil, opError("fetch", r.named(string(desc.Digest)), err)
	}
	if isManifest(desc.MediaType) {
		rc, err := r.fetchManifest(ctx, desc)
		if err != nil {
			return nil, opError("fetch manifest", r.named(desc.Digest.String()), err)
		}
		return newVerifiedReader(rc, desc), nil
	}
	rc := r.resuming(ctx, desc)
	if err := rc.open(); err != nil {
		return nil, err
	}
	return newVerifiedReader(rc, desc), nil
}

func (r *Repository) fetchManifest(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	resp, err := r.send(ctx, http.MethodGet, "/manifests/"+desc.Digest.String(), nil, exchange{header: http.Header{"Accept": {desc.MediaType}}}, auth.ActionPull)
	if err != nil {
		return nil, err
	}
	if got := contentType(resp); got != desc.MediaType {
		drain(resp)
		if !isManifest(got) {
			return nil, notManifest(got)
		}
		return nil, contentf("the registry calls it %s, its descriptor %s", got, desc.MediaType)
	}
	return classifiedBody{resp.Body}, nil
}

// classifiedBody gives the errors of a body their class.
type classifiedBody struct{ io.ReadCloser }

// Read reads.
func (b classifiedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = classify(err)
	}
	return n, err
}

// Exists tells whether the registry has a manifest or a blob.
func (r *Repository) Exists(ctx context.Context, desc ocispec.Descriptor) (bool, error) {
	if err := checkDescriptor(desc); err != nil {
		return false, opError("look for", r.ref.Name(), err)
	}
	path, header := "/blobs/"+desc.Digest.String(), http.Header{}
	if isManifest(desc.MediaType) {
		path, header = "/manifests/"+desc.Digest.String(), http.Header{"Accept": {desc.MediaType}}
	}
	resp, err := r.send(ctx, http.MethodHead, path, nil, exchange{header: header}, auth.ActionPull)
	if errors.Is(err, ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, opError("look for blob "+desc.Digest.String(), r.ref.Name(), err)
	}
	drain(resp)
	// A registry that compresses on the way does not know the length.
	return resp.ContentLength < 0 || resp.ContentLength == desc.Size, nil
}

// Push writes a manifest or a blob that desc describes. It reads content to its
// end and does not close it. A blob can be tried again only if content is an io.Seeker.
func (r *Repository) Push(ctx context.Context, desc ocispec.Descriptor, content io.Reader) error {
	if err := checkDescriptor(desc); err != nil {
		return opError("push", r.ref.Name(), err)
	}
	if isManifest(desc.MediaType) {
		raw, err := io.ReadAll(newVerifiedReader(io.NopCloser(content), desc))
		if err != nil {
			return opError("push manifest", r.ref.Name(), err)
		}
		return r.pushManifest(ctx, desc, raw, desc.Digest.String())
	}
	opened := false
	return r.writeBlob(ctx, desc, func(_ context.Context, off int64) (io.ReadCloser, error) {
		if s, ok := content.(io.Seeker); ok {
			if _, err := s.Seek(off, io.SeekStart); err != nil {
				return nil, err
			}
		} else if opened || off != 0 {
			return nil, contentf("blob %s was read and cannot be read again", desc.Digest)
		}
		opened = true
		return io.NopCloser(content), nil
	}, nil)
}

// pushManifest puts a manifest under a digest or a tag.
func (r *Repository) pushManifest(ctx context.Context, desc ocispec.Descriptor, raw []byte, identifier string) error {
	resp, err := r.send(ctx, http.MethodPut, "/manifests/"+identifier, nil, exchange{
		header: http.Header{"Content-Type": {desc.MediaType}},
		body:   func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(raw)), nil },
		size:   int64(len(raw)),
	}, auth.ActionPull, auth.ActionPush)
	if err == nil {
		drain(resp)
		err = checkPushed(resp, desc)
	}
	return opError("push manifest", r.named(identifier), err)
}

// checkPushed compares what the registry says it has taken.
func checkPushed(resp *http.Response, desc ocispec.Descriptor) error {
	got := resp.Header.Get("Docker-Content-Digest")
	if got != "" && got != desc.Digest.String() && digest.Digest(got).Algorithm() == desc.Digest.Algorithm() {
		return fmt.Errorf("%w: it stored %s instead of %s", ErrRegistry, printable(got, 100), desc.Digest)
	}
	return nil
}

// Tag makes a tag lead to a manifest that the registry has.
func (r *Repository) Tag(ctx context.Context, desc ocispec.Descriptor, tag string) error {
	if !tagPattern.MatchString(tag) {
		return opError("tag", r.ref.Name(), fmt.Errorf("%w: tag %s", ErrReference, quoteName(tag)))
	}
	raw, _, err := fetchManifest(ctx, r, desc)
	if err != nil {
		return opError("tag", r.named(tag), err)
	}
	return r.pushManifest(ctx, desc, raw, tag)
}

// Tags lists the tags of the repository in alphabetical order.
func (r *Repository) Tags(ctx context.Context) ([]string, error) {
	var tags []string
	query := url.Values{"n": {strconv.Itoa(1000)}}
	for range maxTagPages {
		resp, err := r.send(ctx, http.MethodGet, "/tags/list", query, exchange{}, auth.ActionPull)
		if err != nil {
			return nil, opError("list tags", r.ref.Name(), err)
		}
		var page struct {
			Tags []string `json:"tags"`
		}
		err = json.NewDecoder(io.LimitReader(resp.Body, MaxManifestBytes)).Decode(&page)
		drain(resp)
		if err != nil {
			return nil, opError("list tags", r.ref.Name(), contentf("list of tags: %w", err))
		}
		for _, tag := range page.Tags {
			if tagPattern.MatchString(tag) {
				tags = append(tags, tag)
			}
		}
		if resp.Header.Get("Link") == "" || len(page.Tags) == 0 {
			slices.Sort(tags)
			return tags, nil
		}
		query.Set("last", page.Tags[len(page.Tags)-1])
	}
	return nil, opError("list tags", r.ref.Name(), contentf("more than %d pages", maxTagPages))
}
