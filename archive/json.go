package archive

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"unicode"
	"unicode/utf8"
)

// DecodeJSON reads the JSON member called name into v and rejects what two readers
// could read differently: bytes that are not UTF-8, keys that differ only in case or
// not at all, data after the value, null, and too much depth.
func DecodeJSON(name string, b []byte, v any) error {
	if err := checkJSON(b); err != nil {
		return rejectEntry(name, "%w", err)
	}
	if err := json.Unmarshal(b, v); err != nil {
		return rejectEntry(name, "%w", err)
	}
	return nil
}

// checkJSON walks the tokens of b. encoding/json itself takes the last of
// duplicate keys, matches them without regard to case and mends invalid UTF-8.
func checkJSON(b []byte) error {
	switch {
	case len(b) > MaxJSONBytes:
		return errors.New("too large for metadata")
	case !utf8.Valid(b):
		return errors.New("not UTF-8")
	case bytes.Equal(bytes.TrimSpace(b), []byte("null")):
		return errors.New("is null")
	}
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.UseNumber()
	var stack []*jsonLevel
	for first := true; ; first = false {
		tok, err := dec.Token()
		if errors.Is(err, io.EOF) && !first {
			return nil
		}
		if err != nil {
			if errors.Is(err, io.EOF) {
				return errors.New("is empty")
			}
			return err
		}
		if !first && len(stack) == 0 {
			return errors.New("data after the value")
		}
		switch d, isDelim := tok.(json.Delim); {
		case isDelim && (d == '{' || d == '['):
			if len(stack) == MaxJSONDepth {
				return errors.New("nested too deep")
			}
			stack = append(stack, &jsonLevel{object: d == '{'})
		case isDelim:
			stack = stack[:len(stack)-1]
			closeValue(stack)
		default:
			if len(stack) > 0 && stack[len(stack)-1].wantsKey() {
				key, _ := tok.(string)
				if !stack[len(stack)-1].addKey(key) {
					return errors.New("duplicate key " + QuoteName(key))
				}
				continue
			}
			closeValue(stack)
		}
	}
}

// jsonLevel is one object or array that checkJSON is in.
type jsonLevel struct {
	object  bool
	inValue bool // an object's key was read, its value was not
	keys    map[string]bool
}

func (l *jsonLevel) wantsKey() bool { return l.object && !l.inValue }

func (l *jsonLevel) addKey(key string) bool {
	key = strings.Map(foldRune, key)
	if l.keys == nil {
		l.keys = map[string]bool{}
	}
	if l.keys[key] {
		return false
	}
	l.keys[key] = true
	l.inValue = true
	return true
}

// foldRune maps all runes that encoding/json takes for one, such as S, s and U+017F, to one.
func foldRune(r rune) rune {
	for {
		next := unicode.SimpleFold(r)
		if next <= r {
			return next
		}
		r = next
	}
}

// closeValue notes that the innermost level has had its value.
func closeValue(stack []*jsonLevel) {
	if len(stack) > 0 {
		stack[len(stack)-1].inValue = false
	}
}
