package registry

import "time"

// What this package accepts from a registry or a layout.
const (
	// MaxManifestBytes is the length of a manifest, the limit that registries keep as well.
	MaxManifestBytes = 4 << 20
	// MaxIndexBytes is the length of the index.json of a layout.
	MaxIndexBytes = 32 << 20
	// MaxLayers is the number of layers of one manifest, or of manifests of one index.
	MaxLayers = 4096
	// MaxManifests is the number of manifests below one name.
	MaxManifests = 256
	// MaxIndexDepth is how deep indexes may nest: a name that leads to an index of an index of a manifest is 3.
	MaxIndexDepth = 3
	// MaxBlobBytes is the length of one blob: 64 TiB.
	MaxBlobBytes int64 = 64 << 40
	// maxNameBytes is the length of a name in a layout.
	maxNameBytes = 512
	// maxErrorBody is how much of an error answer is read, in bytes.
	maxErrorBody = 16 << 10
	// maxAuthFileBytes is the length of a file of credentials.
	maxAuthFileBytes = 4 << 20
	// maxTagPages is the number of pages of a list of tags.
	maxTagPages = 1000
)

// How long things may take, and how often they are tried.
const (
	// tries is how often a request or a blob is tried before its error is final.
	tries = 5
	// defaultMaxRetryWait bounds one wait that a registry asks for with Retry-After.
	defaultMaxRetryWait = 120 * time.Second
	// headerTimeout is how long the answer to a request may take.
	headerTimeout = 30 * time.Second
	// commitTimeout is the same for the end of an upload: registries hash and move the blob before they answer.
	commitTimeout = 10 * time.Minute
	// idleTimeout is how long a transfer may stand still.
	idleTimeout = 60 * time.Second
	// leastBytes is what has to come in this time, about 500 bytes a second: a transfer of less would
	// take days, and may be meant to.
	leastBytes = 32 << 10
	// dialTimeout is for a TCP connection and for a TLS handshake each.
	dialTimeout = 15 * time.Second
	// helperTimeout is for a credential helper.
	helperTimeout = 30 * time.Second
	// maxRedirects is the number of redirects of one request.
	maxRedirects = 10
	// progressEnough is the number of bytes after which a resumed transfer has its tries back.
	progressEnough = 1 << 20
)
