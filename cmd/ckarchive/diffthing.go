package main

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
)

// thing is something of a checkpoint that has its like in another one: a process, a file.
type thing struct {
	pid    uint32 // 0: of no process
	name   string
	fields []field
}

// field is a property of a thing. An empty one is as good as none.
type field struct{ name, value string }

// What became of a thing.
const (
	changeAdded   = "added"
	changeRemoved = "removed"
	changeChanged = "changed"
)

// difference is a thing that is not the same in both checkpoints.
type difference struct {
	Change string        `json:"change"` // added, removed, changed
	PID    uint32        `json:"pid,omitempty"`
	Name   string        `json:"name"`
	Fields []fieldChange `json:"fields,omitempty"` // that differ; of what is added or removed all
}

// fieldChange is the two values of a property.
type fieldChange struct {
	Name string `json:"name"`
	A    string `json:"a"`
	B    string `json:"b"`
}

// label names the thing.
func (d difference) label() string { return label(d.PID, d.Name) }

func label(pid uint32, name string) string {
	if pid == 0 {
		return name
	}
	return fmt.Sprintf("[%d] %s", pid, name)
}

// texts says of each field what became of it.
func (d difference) texts() []string {
	var all []string
	for _, f := range d.Fields {
		text := f.short(f.A + f.B)
		if d.Change == changeChanged {
			text = f.short(cmp.Or(f.A, "-")) + " -> " + f.short(cmp.Or(f.B, "-"))
		}
		if f.Name != fieldValue {
			text = f.Name + " " + text
		}
		all = append(all, text)
	}
	return all
}

// The fields that are shown in a form of their own.
const (
	fieldValue = "value"  // the only one of a thing
	fieldSum   = "sha256" // of content
)

// short is the value for people to see: of a digest the beginning.
func (f fieldChange) short(value string) string {
	const enough = 12
	if f.Name == fieldSum && len(value) > enough {
		return value[:enough]
	}
	return value
}

// thingKey tells things apart. Of several with the same name, as mounts one above the other, the first is compared
// with the first.
type thingKey struct {
	pid  uint32
	name string
	nth  int
}

func keyed(list []thing) (keys []thingKey, byKey map[thingKey]thing) {
	byKey = make(map[thingKey]thing, len(list))
	for _, t := range list {
		k := thingKey{t.pid, t.name, 0}
		for {
			if _, taken := byKey[k]; !taken {
				break
			}
			k.nth++
		}
		byKey[k] = t
		keys = append(keys, k)
	}
	return keys, byKey
}

// compareThings gives what differs, by process and name.
func compareThings(a, b []thing) []difference {
	out := []difference{}
	keysA, inA := keyed(a)
	keysB, inB := keyed(b)
	for _, k := range keysA {
		now, ok := inB[k]
		d := difference{Change: changeChanged, PID: k.pid, Name: k.name, Fields: compareFields(inA[k].fields, now.fields)}
		if !ok {
			d.Change = changeRemoved
		}
		if !ok || len(d.Fields) > 0 {
			out = append(out, d)
		}
	}
	for _, k := range keysB {
		if _, ok := inA[k]; !ok {
			out = append(out, difference{Change: changeAdded, PID: k.pid, Name: k.name, Fields: compareFields(nil, inB[k].fields)})
		}
	}
	slices.SortStableFunc(out, func(x, y difference) int { return compareLabels(x.PID, x.Name, y.PID, y.Name) })
	return out
}

// compareFields gives the fields with different values in the order of a, then of b.
func compareFields(a, b []field) []fieldChange {
	var out []fieldChange
	for _, f := range a {
		if now := valueOf(b, f.name); now != f.value {
			out = append(out, fieldChange{f.name, f.value, now})
		}
	}
	for _, f := range b {
		if f.value != "" && !slices.ContainsFunc(a, func(g field) bool { return g.name == f.name }) {
			out = append(out, fieldChange{f.name, "", f.value})
		}
	}
	return out
}

func valueOf(fields []field, name string) string {
	for _, f := range fields {
		if f.name == name {
			return f.value
		}
	}
	return ""
}

// compareLabels orders by process and name, descriptors by their number.
func compareLabels(pidA uint32, nameA string, pidB uint32, nameB string) int {
	a, errA := strconv.Atoi(nameA)
	b, errB := strconv.Atoi(nameB)
	if errA == nil && errB == nil {
		return cmp.Or(cmp.Compare(pidA, pidB), cmp.Compare(a, b))
	}
	return cmp.Or(cmp.Compare(pidA, pidB), cmp.Compare(nameA, nameB))
}
