package archive

import "path"

// claims are the names that an archive has had so far.
type claims map[string]Kind

// kindImplied marks a directory that only occurred as the parent of a member.
const kindImplied Kind = 0xff

// add rejects a second entry of one name and anything below a file.
func (c claims) add(e Entry) error {
	// A directory may follow its content: tar makes no promise of order.
	if old, ok := c[e.Name]; ok && (old != kindImplied || e.Kind != KindDir) {
		return rejectf("the name occurs twice")
	}
	for dir := path.Dir(e.Name); dir != "."; dir = path.Dir(dir) {
		switch old, ok := c[dir]; {
		case !ok:
			c[dir] = kindImplied
		case old == KindFile:
			return rejectf("it lies below the file %s", QuoteName(dir))
		}
	}
	c[e.Name] = e.Kind
	if len(c) > MaxEntries {
		return rejectf("more than %d names, folders included", MaxEntries)
	}
	return nil
}
