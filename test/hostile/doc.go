// Package hostile has a corpus of damaged and hostile archives, each with the verdict that is expected
// of every verb, and runs the program on all of them: from a file, from a stream and from an image. A container
// that really ran is the pattern of all; each archive of the corpus is that one with a single thing changed.
package hostile
