// Package pages is memory as content: the pages files of a checkpoint as packs of
// compressed frames, of which a later checkpoint of the same container stores only
// what changed.
//
// # The model
//
// A pages file is a sequence of pages of [PageBytes]. Stored pages lie in frames of up to
// [FramePages] pages, frames one behind the other in packs, and nothing else is in a pack.
// An [Index] lists the packs and says for each pages file where its pages are. Pages are
// numbered through all packs of an index in order.
//
//	index ── packs ── frames: length, number of pages, SHA-256, base pages
//	     └── files ── size, SHA-256, runs: "so many pages from number n", "so many zero pages"
//
// A literal frame stands for itself. A delta frame is compressed with base pages as zstd's
// dictionary: older versions of the same pages. Base pages are always in literal frames, so
// that no page needs more than two layers.
//
// # Writing
//
// [Writer] takes the pages files of a checkpoint as streams. With a [Parent] each page
// is compared with the parent's page at the same virtual address, which the pagemap images
// of both tell. An equal one is referred to, a changed one becomes part of a delta frame.
// Addresses are hints: wrong ones cost space, never content. The same input with the same
// parent gives the same bytes, on any number of cores.
//
// # Reading
//
// [Reader] gives random access to every page ([Reader.Open]) and rebuilds files bit for bit in
// parallel ([Reader.Stream], [Reader.Rebuild]). A frame is checked against its hash before it
// is decoded. An index may come from anybody: [ParseIndex] rejects what is not
// well-formed, within the limits of limits.go.
//
// The format is specified in docs/formats.md.
package pages
