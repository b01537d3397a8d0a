//go:build !amd64

package env

// ownSteps are those that newer architectures have no call for.
//
//nolint:gochecknoglobals // a table
var ownSteps []uint64
