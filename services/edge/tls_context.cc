#include "services/edge/tls_context.h"

#include <openssl/bio.h>
#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/params.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/sha.h>
#include <openssl/x509v3.h>

#include <algorithm>
#include <cstdlib>
#include <ctime>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "lib/base/file.h"
#include "lib/base/status_macros.h"

namespace mycelium::edge {
namespace {

constexpr int64_t kMaxFileBytes = int64_t{1} << 20;
constexpr size_t kMaxPairs = 4096;
// What is sent in a handshake has to fit into the output of a connection.
constexpr int kMaxChainBytes = 32 * 1024;
constexpr char kProtocol[] = "http/1.1";

// Of TLS 1.2: forward secret and authenticated. AES-128 first: it costs less,
// and nothing in use is known to break it.
constexpr char kCiphers[] =
    "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:"
    "ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384:"
    "ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305";
constexpr char kSuites[] =
    "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:"
    "TLS_CHACHA20_POLY1305_SHA256";

struct FreeBio {
  void operator()(BIO* bio) const { BIO_free_all(bio); }
};
using UniqueBio = std::unique_ptr<BIO, FreeBio>;

struct FreeSsl {
  void operator()(SSL* ssl) const { SSL_free(ssl); }
};

// What OpenSSL says of its last failure on this thread, which is forgotten.
std::string TakeOpensslError() {
  const uint64_t error = ERR_peek_last_error();
  ERR_clear_error();
  const char* const reason = ERR_reason_error_string(error);
  return reason != nullptr ? reason : "OpenSSL gives no reason";
}

absl::Status FileError(const std::string& path, absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat(path, ": ", what));
}

UniqueBio Over(const std::string& text) {
  return UniqueBio(BIO_new_mem_buf(text.data(), static_cast<int>(text.size())));
}

// Keeps OpenSSL from asking for a passphrase on the terminal.
int RefusePassphrase(char* /*buffer*/, int /*size*/, int /*writing*/,
                     void* /*data*/) {
  return -1;
}

std::string Canonical(absl::string_view host) {
  std::string result(host);
  absl::AsciiStrToLower(&result);
  if (!result.empty() && result.back() == '.') result.pop_back();
  return result;
}

// The DNS names that a certificate is for, as keys of TlsContext::by_host_.
std::vector<std::string> HostsOf(const X509* certificate) {
  std::vector<std::string> hosts;
  auto* const names = static_cast<GENERAL_NAMES*>(
      X509_get_ext_d2i(certificate, NID_subject_alt_name, nullptr, nullptr));
  for (int i = 0; i < sk_GENERAL_NAME_num(names); ++i) {
    const GENERAL_NAME* const name = sk_GENERAL_NAME_value(names, i);
    if (name->type != GEN_DNS) continue;
    const absl::string_view text(
        reinterpret_cast<const char*>(ASN1_STRING_get0_data(name->d.dNSName)),
        static_cast<size_t>(ASN1_STRING_length(name->d.dNSName)));
    std::string host = Canonical(text);
    if (absl::StartsWith(host, "*.")) host.erase(0, 1);
    hosts.push_back(std::move(host));
  }
  GENERAL_NAMES_free(names);
  ERR_clear_error();
  return hosts;
}

int64_t NotAfter(const X509* certificate) {
  tm parts{};
  if (ASN1_TIME_to_tm(X509_get0_notAfter(certificate), &parts) != 1) return 0;
  return timegm(&parts);
}

}  // namespace

void TicketKeys::Rotate() {
  Key key;
  // Without randomness there is no secret, and no TLS at all.
  if (RAND_bytes(key.name.data(), key.name.size()) != 1 ||
      RAND_bytes(key.cipher.data(), key.cipher.size()) != 1 ||
      RAND_bytes(key.mac.data(), key.mac.size()) != 1) {
    std::abort();
  }
  MutexLock lock(mutex_);
  keys_.insert(keys_.begin(), key);
  if (keys_.size() > 2) {
    OPENSSL_cleanse(&keys_.back(), sizeof(Key));
    keys_.pop_back();
  }
}

TicketKeys::Key TicketKeys::Newest() const {
  MutexLock lock(mutex_);
  return keys_.front();
}

bool TicketKeys::Find(const unsigned char* name, Key* key, bool* newest) const {
  MutexLock lock(mutex_);
  for (const Key& candidate : keys_) {
    if (!std::equal(candidate.name.begin(), candidate.name.end(), name))
      continue;
    *key = candidate;
    *newest = &candidate == &keys_.front();
    return true;
  }
  return false;
}

absl::StatusOr<std::shared_ptr<const TlsContext>> TlsContext::Load(
    const TlsOptions& options, std::shared_ptr<TicketKeys> ticket_keys) {
  MYC_ASSIGN_OR_RETURN(const std::vector<std::string> files,
                       ListDirectory(options.certificates));
  std::shared_ptr<TlsContext> context(
      new TlsContext(options, std::move(ticket_keys)));
  MYC_RETURN_IF_ERROR(context->Configure(options.client_ca));

  // Hidden files are how others replace directories atomically.
  std::vector<std::string> names;
  for (const std::string& file : files) {
    if (file.front() == '.') continue;
    const bool certificate = absl::EndsWith(file, ".crt");
    if (!certificate && !absl::EndsWith(file, ".key")) continue;
    const std::string name = file.substr(0, file.size() - 4);
    const std::string other = name + (certificate ? ".key" : ".crt");
    if (!std::binary_search(files.begin(), files.end(), other)) {
      return FileError(JoinPath(options.certificates, file),
                       absl::StrCat("there is no ", other, " beside it"));
    }
    if (certificate) names.push_back(name);
  }
  if (names.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat(options.certificates,
                     ": no certificate; want NAME.crt and NAME.key, PEM"));
  }
  if (names.size() > kMaxPairs) {
    return absl::InvalidArgumentError(
        absl::StrCat(options.certificates, ": ", names.size(),
                     " certificates; want at most ", kMaxPairs));
  }
  std::sort(names.begin(), names.end());
  for (const std::string& name : names) {
    MYC_ASSIGN_OR_RETURN(Pair pair, LoadPair(options.certificates, name));
    if (absl::Status status = context->AddPair(std::move(pair)); !status.ok()) {
      return FileError(
          JoinPath(options.certificates, absl::StrCat(name, ".crt")),
          status.message());
    }
    if (name == "default") context->default_ = context->pairs_.size() - 1;
  }
  const Pair& fallback = context->pairs_[context->default_];
  if (SSL_CTX_use_cert_and_key(context->context_.get(), fallback.leaf.get(),
                               fallback.key.get(), fallback.chain.get(),
                               1) != 1) {
    return absl::InternalError(TakeOpensslError());
  }
  return std::shared_ptr<const TlsContext>(std::move(context));
}

absl::StatusOr<TlsContext::Pair> TlsContext::LoadPair(
    const std::string& directory, const std::string& name) {
  const std::string certificate_path =
      JoinPath(directory, absl::StrCat(name, ".crt"));
  const std::string key_path = JoinPath(directory, absl::StrCat(name, ".key"));
  MYC_ASSIGN_OR_RETURN(const std::string certificate_text,
                       ReadFile(certificate_path, kMaxFileBytes));
  MYC_ASSIGN_OR_RETURN(std::string key_text, ReadFile(key_path, kMaxFileBytes));

  Pair pair;
  pair.name = name;
  pair.chain.reset(sk_X509_new_null());
  const UniqueBio certificates = Over(certificate_text);
  int chain_bytes = 0;
  while (X509* const certificate = PEM_read_bio_X509(
             certificates.get(), nullptr, RefusePassphrase, nullptr)) {
    chain_bytes += i2d_X509(certificate, nullptr);
    if (pair.leaf == nullptr) {
      pair.leaf.reset(certificate);
    } else {
      sk_X509_push(pair.chain.get(), certificate);
    }
  }
  const bool at_end =
      ERR_GET_REASON(ERR_peek_last_error()) == PEM_R_NO_START_LINE;
  const std::string certificate_error = TakeOpensslError();
  if (!at_end) return FileError(certificate_path, certificate_error);
  if (pair.leaf == nullptr)
    return FileError(certificate_path, "no PEM certificate in it");
  if (chain_bytes > kMaxChainBytes) {
    return FileError(certificate_path,
                     absl::StrCat("a chain of ", chain_bytes,
                                  " bytes; want at most ", kMaxChainBytes));
  }

  // "BEGIN PRIVATE KEY", "BEGIN EC PRIVATE KEY" and so on.
  const bool none = !absl::StrContains(key_text, "PRIVATE KEY-----");
  const UniqueBio key = Over(key_text);
  pair.key.reset(
      PEM_read_bio_PrivateKey(key.get(), nullptr, RefusePassphrase, nullptr));
  OPENSSL_cleanse(key_text.data(), key_text.size());
  if (pair.key == nullptr) {
    const bool sealed =
        ERR_GET_REASON(ERR_peek_last_error()) == PEM_R_BAD_PASSWORD_READ;
    const std::string error = TakeOpensslError();
    return FileError(key_path, none     ? "no PEM private key in it"
                               : sealed ? "it is encrypted; want a plain key"
                                        : error);
  }
  if (X509_check_private_key(pair.leaf.get(), pair.key.get()) != 1) {
    ERR_clear_error();
    return FileError(key_path, absl::StrCat("it is not the key of the ",
                                            "certificate in ", name, ".crt"));
  }
  ERR_clear_error();
  return pair;
}

absl::Status TlsContext::AddPair(Pair pair) {
  // Keys that are too small, and the like, are found only by using them.
  const std::unique_ptr<SSL, FreeSsl> probe(SSL_new(context_.get()));
  if (probe == nullptr ||
      SSL_use_cert_and_key(probe.get(), pair.leaf.get(), pair.key.get(),
                           pair.chain.get(), 1) != 1) {
    return absl::InvalidArgumentError(TakeOpensslError());
  }
  const size_t index = pairs_.size();
  const std::vector<std::string> hosts = HostsOf(pair.leaf.get());
  if (hosts.empty()) {
    warnings_.push_back(absl::StrCat(
        pair.name, ".crt names no DNS host: it can only be the default"));
  }
  for (const std::string& host : hosts) {
    const auto [entry, added] = by_host_.emplace(host, index);
    if (!added && entry->second != index) {
      warnings_.push_back(
          absl::StrCat(pair.name, ".crt and ", pairs_[entry->second].name,
                       ".crt are both for ", host.front() == '.' ? "*" : "",
                       host, ": the latter is used"));
    }
  }
  if (X509_cmp_current_time(X509_get0_notAfter(pair.leaf.get())) < 0)
    warnings_.push_back(absl::StrCat(pair.name, ".crt has expired"));
  if (X509_cmp_current_time(X509_get0_notBefore(pair.leaf.get())) > 0)
    warnings_.push_back(absl::StrCat(pair.name, ".crt is not valid yet"));
  pairs_.push_back(std::move(pair));
  return absl::OkStatus();
}

absl::Status TlsContext::Configure(const std::string& client_ca) {
  context_.reset(SSL_CTX_new(TLS_server_method()));
  SSL_CTX* const context = context_.get();
  if (context == nullptr ||
      SSL_CTX_set_min_proto_version(context, TLS1_2_VERSION) != 1 ||
      SSL_CTX_set_cipher_list(context, kCiphers) != 1 ||
      SSL_CTX_set_ciphersuites(context, kSuites) != 1 ||
      SSL_CTX_set1_groups_list(context, "X25519:P-256:P-384") != 1) {
    return absl::InternalError(
        absl::StrCat("cannot set up TLS: ", TakeOpensslError()));
  }
  SSL_CTX_set_security_level(context, 2);
  SSL_CTX_set_options(context, SSL_OP_NO_COMPRESSION | SSL_OP_NO_RENEGOTIATION |
                                   SSL_OP_CIPHER_SERVER_PREFERENCE |
                                   SSL_OP_PRIORITIZE_CHACHA);
  SSL_CTX_set_mode(context, SSL_MODE_RELEASE_BUFFERS);
  // One system call per read instead of two per record.
  SSL_CTX_set_read_ahead(context, 1);
  // Sessions live in their tickets only.
  SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);
  SSL_CTX_set_timeout(context, 7200);
  SSL_CTX_set_tlsext_ticket_key_evp_cb(context, &SealTicket);
  SSL_CTX_set_app_data(context, this);
  SSL_CTX_set_tlsext_servername_callback(context, &ChooseName);
  SSL_CTX_set_tlsext_servername_arg(context, this);
  SSL_CTX_set_cert_cb(context, &ChooseCertificate, this);
  SSL_CTX_set_alpn_select_cb(context, &ChooseProtocol, this);

  std::string authorities;
  if (!client_ca.empty()) {
    MYC_ASSIGN_OR_RETURN(authorities, ReadFile(client_ca, kMaxFileBytes));
    STACK_OF(X509_NAME)* const names =
        SSL_load_client_CA_file(client_ca.c_str());
    if (names == nullptr ||
        SSL_CTX_load_verify_file(context, client_ca.c_str()) != 1) {
      sk_X509_NAME_pop_free(names, X509_NAME_free);
      return FileError(client_ca, TakeOpensslError());
    }
    ERR_clear_error();
    SSL_CTX_set_client_CA_list(context, names);
    SSL_CTX_set_verify(
        context, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, nullptr);
  }
  // A session carries the verdict on its client's certificate, so it must not
  // outlive the authorities that gave it.
  std::array<unsigned char, SHA256_DIGEST_LENGTH> digest;
  SHA256(reinterpret_cast<const unsigned char*>(authorities.data()),
         authorities.size(), digest.data());
  SSL_CTX_set_session_id_context(context, digest.data(), digest.size());
  return absl::OkStatus();
}

const TlsContext::Pair* TlsContext::Find(absl::string_view host) const {
  if (host.empty()) return nullptr;
  const std::string name = Canonical(host);
  auto found = by_host_.find(name);
  if (found == by_host_.end() || name.front() == '.') {
    const size_t dot = name.find('.');
    if (dot == std::string::npos || dot == 0) return nullptr;
    found = by_host_.find(name.substr(dot));
    if (found == by_host_.end()) return nullptr;
  }
  return &pairs_[found->second];
}

absl::string_view TlsContext::NameFor(absl::string_view host) const {
  const Pair* const pair = Find(host);
  if (pair != nullptr) return pair->name;
  return strict_sni_ ? absl::string_view() : pairs_[default_].name;
}

std::vector<TlsContext::Summary> TlsContext::Certificates() const {
  std::vector<Summary> certificates;
  for (const Pair& pair : pairs_)
    certificates.push_back({pair.name, NotAfter(pair.leaf.get())});
  return certificates;
}

int TlsContext::ChooseName(SSL* ssl, int* alert, void* self) {
  const auto* const context = static_cast<const TlsContext*>(self);
  if (!context->strict_sni_) return SSL_TLSEXT_ERR_OK;
  const char* const host = SSL_get_servername(ssl, TLSEXT_NAMETYPE_host_name);
  if (host != nullptr && context->Find(host) != nullptr)
    return SSL_TLSEXT_ERR_OK;
  *alert = SSL_AD_UNRECOGNIZED_NAME;
  return SSL_TLSEXT_ERR_ALERT_FATAL;
}

int TlsContext::ChooseCertificate(SSL* ssl, void* self) {
  const auto* const context = static_cast<const TlsContext*>(self);
  const char* const host = SSL_get_servername(ssl, TLSEXT_NAMETYPE_host_name);
  if (host == nullptr) return 1;
  const Pair* const pair = context->Find(host);
  if (pair == nullptr || pair == &context->pairs_[context->default_]) return 1;
  // The default one might have a key of another kind, and would stay beside.
  SSL_certs_clear(ssl);
  return SSL_use_cert_and_key(ssl, pair->leaf.get(), pair->key.get(),
                              pair->chain.get(), 1);
}

int TlsContext::ChooseProtocol(SSL* /*ssl*/, const unsigned char** out,
                               unsigned char* out_size, const unsigned char* in,
                               unsigned in_size, void* /*self*/) {
  const absl::string_view want = kProtocol;
  for (unsigned at = 0; at < in_size; at += 1U + in[at]) {
    const absl::string_view offered(reinterpret_cast<const char*>(in) + at + 1,
                                    in[at]);
    if (at + 1U + in[at] <= in_size && offered == want) {
      *out = in + at + 1;
      *out_size = in[at];
      return SSL_TLSEXT_ERR_OK;
    }
  }
  return SSL_TLSEXT_ERR_ALERT_FATAL;
}

int TlsContext::SealTicket(SSL* ssl, unsigned char* name, unsigned char* iv,
                           EVP_CIPHER_CTX* cipher, EVP_MAC_CTX* mac, int seal) {
  const auto* const context = static_cast<const TlsContext*>(
      SSL_CTX_get_app_data(SSL_get_SSL_CTX(ssl)));
  TicketKeys::Key key;
  bool newest = true;
  if (seal == 1) {
    key = context->ticket_keys_->Newest();
    std::copy(key.name.begin(), key.name.end(), name);
    if (RAND_bytes(iv, 16) != 1) return -1;
  } else if (!context->ticket_keys_->Find(name, &key, &newest)) {
    return 0;
  }
  std::array<char, 7> digest = {"SHA256"};
  const std::array<OSSL_PARAM, 3> parameters = {
      OSSL_PARAM_construct_octet_string(OSSL_MAC_PARAM_KEY, key.mac.data(),
                                        key.mac.size()),
      OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST, digest.data(), 0),
      OSSL_PARAM_construct_end()};
  const bool ok = EVP_CipherInit_ex(cipher, EVP_aes_256_cbc(), nullptr,
                                    key.cipher.data(), iv, seal) == 1 &&
                  EVP_MAC_CTX_set_params(mac, parameters.data()) == 1;
  OPENSSL_cleanse(&key, sizeof(key));
  if (!ok) return -1;
  return newest ? 1 : 2;
}

}  // namespace mycelium::edge
