package pages

// Encode gives the bytes of an index before compression, valid or not.
func Encode(ix *Index) []byte { return ix.encode() }

// DecodeIndex is ParseIndex behind the decompression.
func DecodeIndex(plain []byte) (*Index, error) {
	return parsePlain(plain)
}

// ChoosePackBytes is the size of packs for so many bytes of memory.
func ChoosePackBytes(memory int64) int64 { return choosePackBytes(memory) }
