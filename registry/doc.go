// Package registry moves OCI content between directories, archives and
// registries. It knows descriptors, manifests and names; it does not know what a
// checkpoint is.
//
// A [Store] is an OCI image layout on a file system that several processes may
// use at once. A [StoreArchive] is such a layout in a tar file. A [Repository],
// which a [Client] gives, is one repository of a registry. [Copy] moves a
// manifest and everything below it from any of them to a Store or a Repository.
//
// # Order
//
// Blobs are written first, then manifests, then the name; reading goes the
// other way round. Whoever dies in between leaves blobs that nothing names:
// the next attempt finds and uses them, or [Store.GC] removes them. A file of a
// Store has its final name only when it is whole and synced.
//
// # Trust
//
// What a registry says is not believed: digests are checked before they become
// file names, content is checked against its digest before it is named, sizes
// and counts have limits (limits.go). Fields of a manifest never become paths
// and its urls are never followed. Random access ([Store.OpenBlob],
// [Repository.OpenBlob]) cannot be checked against the digest of the whole:
// whoever uses it must be safe against any bytes, or have a digest of the part.
//
// Errors name what was done, to what, and why. They never hold credentials,
// tokens or the query of a URL.
package registry
