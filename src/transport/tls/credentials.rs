//! Certificates and private keys from PEM, for both sides; what is wrong with them, in words that quote nothing.

use std::sync::Arc;

use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SigningKey, SingleCertAndKey};
use rustls::{CertificateError, Error as RustlsError, InconsistentKeys, RootCertStore};

use super::pem::{self, Block, ENCRYPTED, Error};

const DAMAGED: &str = "the base64 of this block is damaged: something is missing, or too much";
const NO_DER: &str = "there is no certificate in this block";
const TRUSTED: &str = "this certificate is in OpenSSL's own format; convert it with `openssl x509`";
const PKCS7: &str = "this is PKCS #7; convert it with `openssl pkcs7 -print_certs`";
const OPENSSH: &str = "this is a key of OpenSSH; convert it with `ssh-keygen -p -m PKCS8`";
const DSA: &str = "this is a DSA key, which TLS has no more";
const SECOND: &str = "this is a second private key, and only one is used";
const NOT_USABLE: &str = "this private key is damaged or of no kind that is supported: ECDSA on P-256 or \
    P-384, Ed25519, or RSA of 2048 to 4096 bits";

/// The certificates in a PEM text, all of them, each with its line; at least one.
fn certificates(text: &[u8]) -> Result<Vec<(usize, CertificateDer<'static>)>, Error> {
    let mut found = Vec::new();
    let mut has_key = false;
    for block in pem::blocks(text)? {
        match block.label {
            "CERTIFICATE" | "X509 CERTIFICATE" => {
                let certificate = CertificateDer::from_pem_slice(&block.to_pem("CERTIFICATE"));
                found.push((block.line, certificate.map_err(|_| Error::at(block.line, DAMAGED))?));
            }
            "TRUSTED CERTIFICATE" => return Err(Error::at(block.line, TRUSTED)),
            "PKCS7" | "CMS" => return Err(Error::at(block.line, PKCS7)),
            label => has_key |= label.ends_with("PRIVATE KEY"),
        }
    }
    match (found.is_empty(), has_key) {
        (true, true) => Err(Error::of_all("there is a private key in it and no certificate")),
        (true, false) => Err(Error::of_all("there is no certificate in it")),
        (false, _) => Ok(found),
    }
}

/// The roots in a PEM text; at least one.
pub(crate) fn roots(text: &[u8]) -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    for (line, certificate) in certificates(text)? {
        roots.add(certificate).map_err(|_| Error::at(line, NO_DER))?;
    }
    Ok(roots)
}

/// A certificate and those that lead from it to its root.
fn chain(text: &[u8]) -> Result<Vec<CertificateDer<'static>>, Error> {
    let found = certificates(text)?;
    for (line, certificate) in &found {
        // Reads it, whatever its version. What it may be used for is for the peers to judge.
        let read = RootCertStore::empty().add(certificate.clone());
        if let Err(RustlsError::InvalidCertificate(CertificateError::BadEncoding)) = read {
            return Err(Error::at(*line, NO_DER));
        }
    }
    Ok(found.into_iter().map(|(_, certificate)| certificate).collect())
}

/// The private key in a PEM text, which has no other.
fn private_key(text: &[u8], provider: &CryptoProvider) -> Result<Arc<dyn SigningKey>, Error> {
    let mut found = None::<Block>;
    let mut has_certificate = false;
    for block in pem::blocks(text)? {
        match block.label {
            "ENCRYPTED PRIVATE KEY" => return Err(Error::at(block.line, ENCRYPTED)),
            "OPENSSH PRIVATE KEY" => return Err(Error::at(block.line, OPENSSH)),
            "DSA PRIVATE KEY" => return Err(Error::at(block.line, DSA)),
            label if !label.ends_with("PRIVATE KEY") => {
                has_certificate |= label.ends_with("CERTIFICATE");
            }
            _ if found.is_some() => return Err(Error::at(block.line, SECOND)),
            _ => found = Some(block),
        }
    }
    let Some(block) = found else {
        return Err(Error::of_all(if has_certificate {
            "there is a certificate in it and no private key"
        } else {
            "there is no private key in it"
        }));
    };
    let key = PrivateKeyDer::from_pem_slice(&block.to_pem(block.label));
    let key = key.map_err(|_| Error::at(block.line, DAMAGED))?;
    let key = provider.key_provider.load_private_key(key);
    key.map_err(|_| Error::at(block.line, NOT_USABLE))
}

/// That of who names no other. It is ring, because which provider is the process's depends on what else is compiled in.
pub(crate) fn default_provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// Why there is no identity to be had: about which of its texts, if not about both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BadIdentity {
    Chain(Error),
    Key(Error),
    Pair(&'static str),
}

/// What a server or a client shows: a chain of certificates and the key of the first of them.
pub(crate) fn identity(
    cert: &[u8],
    key: &[u8],
    provider: &CryptoProvider,
) -> Result<Arc<SingleCertAndKey>, BadIdentity> {
    let chain = chain(cert).map_err(BadIdentity::Chain)?;
    let key = private_key(key, provider).map_err(BadIdentity::Key)?;
    let certified = CertifiedKey::new(chain, key);
    match certified.keys_match() {
        // Nobody can tell: a key of a kind that does not give its public half.
        Ok(()) | Err(RustlsError::InconsistentKeys(InconsistentKeys::Unknown)) => {
            Ok(Arc::new(certified.into()))
        }
        Err(RustlsError::InconsistentKeys(_)) => {
            Err(BadIdentity::Pair("the private key is not the key of the first certificate"))
        }
        Err(_) => Err(BadIdentity::Pair(
            "the first certificate cannot be used: it must be X.509 version 3, without critical \
             extensions that are unknown here",
        )),
    }
}
