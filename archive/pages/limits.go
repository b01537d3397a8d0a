package pages

import "github.com/ckarchive/ckarchive/archive"

// The unit of memory and of compression.
const (
	// PageBytes is the size of a page.
	PageBytes = 4096
	// FramePages is the largest number of pages in a frame. Larger frames compress a little better,
	// but changed pages in frames of 1 MiB do no longer find their base, and a random access fetches a frame.
	FramePages = 64
	// frameBytes is the content of a full frame.
	frameBytes = FramePages * PageBytes
	// maxStoredBytes is the most that a frame takes in a pack.
	maxStoredBytes = frameBytes + sealBytes
)

// Encryption of frames: AES-256-GCM with a random nonce in front of the ciphertext.
const (
	// KeyBytes is the length of a key.
	KeyBytes = 32
	// sealBytes is what encryption adds to a frame: 12 bytes of nonce, 16 of authentication.
	sealBytes = 12 + 16
)

// What a reader accepts before it rejects an index or a page map.
const (
	// MaxIndexBytes is the length of an index, unpacked.
	MaxIndexBytes = 256 << 20
	// MaxPacks is the number of packs of an index: a manifest has to name them all.
	MaxPacks = 4000
	// MaxFrames is the number of frames of an index: 1 TiB of stored memory.
	MaxFrames = 1 << 22
	// MaxRuns is the number of runs of an index, those of files and of base pages together.
	MaxRuns = 1 << 24
	// MaxFiles is the number of files of an index.
	MaxFiles = archive.MaxEntries
	// MaxFileBytes is the size of a file.
	MaxFileBytes = archive.MaxTotalBytes
	// MaxPagemapEntryBytes is the length of one entry of a page map.
	MaxPagemapEntryBytes = 4096
	// MaxPagemapRanges is the number of entries of a page map.
	MaxPagemapRanges = 1 << 22
)

// The target size of packs, in bytes: large enough that a registry's cost per blob does not count, small
// enough that a cut transfer does not lose much.
const (
	MinPackBytes = 16 << 20
	MaxPackBytes = 64 << 20
	// fewPacks is how many packs a checkpoint is to have at most. For that, packs of more than a
	// quarter of a terabyte of memory grow beyond MaxPackBytes.
	fewPacks = 2048
)

// How much is under way at a time. Together with the frames of the parent this is what a writer
// takes of memory, a reader less.
const (
	// blockPages is the unit in which files are read and written.
	blockPages = 256
	blockBytes = blockPages * PageBytes
	// maxWorkers bounds the cores in use: each holds buffers of more than a megabyte.
	maxWorkers = 8
	// cachedFrames is how many decoded frames a reader keeps: 24 MiB.
	cachedFrames = 96
	// packCommits is how many packs may be on their way to the disk while the next one fills.
	packCommits = 4
)
