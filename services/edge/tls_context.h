#ifndef SERVICES_EDGE_TLS_CONTEXT_H_
#define SERVICES_EDGE_TLS_CONTEXT_H_

#include <openssl/evp.h>
#include <openssl/ssl.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "lib/base/mutex.h"

namespace mycelium::edge {

// How TLS is spoken with clients.
struct TlsOptions {
  // A directory of NAME.crt (the certificate, then those above it) and NAME.key
  // pairs, all PEM.
  std::string certificates;
  // Refuses clients that name no host, or one that no certificate is for.
  bool strict_sni = false;
  // A PEM file of authorities: clients must show a certificate of one of them.
  // Empty: none is asked for.
  std::string client_ca;
};

// The keys under which session tickets are sealed. They are shared by all
// workers and outlive a change of certificates, so that clients can resume a
// session anywhere and at any time. Thread-safe.
class TicketKeys {
 public:
  struct Key {
    std::array<unsigned char, 16> name;
    std::array<unsigned char, 32> cipher;
    std::array<unsigned char, 32> mac;
  };

  TicketKeys() { Rotate(); }

  // Makes a new key; the one before it still opens tickets, older ones do not.
  void Rotate();

  // The key to seal with.
  Key Newest() const;

  // Finds the key with a name of 16 bytes; false: it is gone. `newest` says
  // whether new tickets are sealed with it.
  bool Find(const unsigned char* name, Key* key, bool* newest) const;

 private:
  mutable Mutex mutex_;
  std::vector<Key> keys_ ABSL_GUARDED_BY(mutex_);  // Newest first.
};

// The certificates and settings for new connections. Immutable; the whole is
// replaced when a certificate changes. Must be kept until the handshakes that
// began with it are over.
class TlsContext {
 public:
  // Reads the directory. A file that cannot be used fails the whole: the error
  // names it and says why.
  static absl::StatusOr<std::shared_ptr<const TlsContext>> Load(
      const TlsOptions& options, std::shared_ptr<TicketKeys> ticket_keys);

  TlsContext(const TlsContext&) = delete;
  TlsContext& operator=(const TlsContext&) = delete;

  // nullptr: out of memory.
  SSL* NewConnection() const { return SSL_new(context_.get()); }

  // The file name, without its ending, of the certificate for `host`: one that
  // names it exactly, else one with a wildcard for its first label, else the
  // default one, which is "default" or the first by name. Of two for the same
  // host the first by name. Empty with strict_sni if none is for it.
  absl::string_view NameFor(absl::string_view host) const;

  // What an operator should know, such as that a certificate has expired.
  const std::vector<std::string>& warnings() const { return warnings_; }

  struct Summary {
    std::string name;
    int64_t not_after_s = 0;  // Of the Unix epoch.
  };
  // Of every certificate, by name.
  std::vector<Summary> Certificates() const;

 private:
  struct FreeKey {
    void operator()(EVP_PKEY* key) const { EVP_PKEY_free(key); }
  };
  struct FreeCertificate {
    void operator()(X509* certificate) const { X509_free(certificate); }
  };
  struct FreeChain {
    void operator()(STACK_OF(X509) * chain) const {
      sk_X509_pop_free(chain, X509_free);
    }
  };
  struct FreeContext {
    void operator()(SSL_CTX* context) const { SSL_CTX_free(context); }
  };

  struct Pair {
    std::string name;
    std::unique_ptr<X509, FreeCertificate> leaf;
    std::unique_ptr<STACK_OF(X509), FreeChain> chain;
    std::unique_ptr<EVP_PKEY, FreeKey> key;
  };

  TlsContext(const TlsOptions& options, std::shared_ptr<TicketKeys> keys)
      : strict_sni_(options.strict_sni), ticket_keys_(std::move(keys)) {}

  static absl::StatusOr<Pair> LoadPair(const std::string& directory,
                                       const std::string& name);
  absl::Status Configure(const std::string& client_ca);
  absl::Status AddPair(Pair pair);
  // nullptr: none is for it.
  const Pair* Find(absl::string_view host) const;

  static int ChooseName(SSL* ssl, int* alert, void* self);
  static int ChooseCertificate(SSL* ssl, void* self);
  static int ChooseProtocol(SSL* ssl, const unsigned char** out,
                            unsigned char* out_size, const unsigned char* in,
                            unsigned in_size, void* self);
  static int SealTicket(SSL* ssl, unsigned char* name, unsigned char* iv,
                        EVP_CIPHER_CTX* cipher, EVP_MAC_CTX* mac, int seal);

  const bool strict_sni_;
  const std::shared_ptr<TicketKeys> ticket_keys_;
  std::unique_ptr<SSL_CTX, FreeContext> context_;
  std::vector<Pair> pairs_;  // By name.
  size_t default_ = 0;
  // Lower-case host, or ".parent" for "*.parent", to its index in pairs_.
  absl::flat_hash_map<std::string, size_t> by_host_;
  std::vector<std::string> warnings_;
};

}  // namespace mycelium::edge

#endif  // SERVICES_EDGE_TLS_CONTEXT_H_
