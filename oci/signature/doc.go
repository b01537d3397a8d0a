// Package signature says who vouches for a checkpoint: signatures with keys as cosign makes them.
//
// A signature of what is in a registry is a manifest beside it, in which each layer is one signed payload:
//
//	name       REPOSITORY:sha256-HEX.sig, with the digest of what is signed
//	manifest   application/vnd.oci.image.manifest.v1+json
//	           artifactType application/vnd.dev.cosign.artifact.sig.v1+json
//	           subject: what is signed, so that registries list it as a referrer
//	layers     application/vnd.dev.cosign.simplesigning.v1+json: the payload, which
//	           names the digest; annotation dev.cosignproject.cosign/signature
//
// The signature is that of ECDSA with P-256 over the SHA-256 of the payload, in ASN.1 and base64. The payload is the
// simple signing of the containers project:
// https://github.com/containers/image/blob/main/docs/containers-signature.5.md. `cosign verify --key --insecure-ignore-tlog`
// accepts it, and what `cosign sign --key --tlog-upload=false` makes is accepted here.
//
// The signature of a file is one line of base64, over the SHA-256 of the file, as of `cosign sign-blob --key`.
//
// The digest of a manifest covers everything: the layers, the page index in one of them, and by the hashes in the index
// each frame of memory. So a signature is verified before anything is parsed but itself.
package signature
