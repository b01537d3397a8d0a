// Package crypt says who can read an archive. It encrypts to the recipients of age and opens with
// their identities: https://age-encryption.org/v1, as implemented by filippo.io/age.
//
// An archive file is encrypted as a whole: what is inside is the same file that would have been
// written otherwise, and `age --decrypt` gives it. It goes through in pieces of 64 KiB, of which each is proven
// before it is given on.
//
// Encryption keeps others from reading. It does not say who wrote: everybody who knows a
// recipient can encrypt to it.
package crypt
