// Package policy decides what of an archive's runtime spec may be used on this
// host. A memory image is code, and restoring it runs that code; the spec around
// it decides what the code can reach. The spec therefore comes from the operator: what
// goes beyond running an unknown image with a runtime's defaults is refused unless it was
// granted by name, and all reasons are given at once.
package policy
