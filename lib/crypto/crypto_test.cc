// SHA-256, base64 and Ed25519, against the vectors of their standards.

#include <fcntl.h>
#include <openssl/evp.h>
#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <random>
#include <string>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "lib/base/file.h"
#include "lib/crypto/base64.h"
#include "lib/crypto/ed25519.h"
#include "lib/crypto/sha256.h"

namespace mycelium::crypto {
namespace {

std::string Hex(absl::string_view hex) { return absl::HexStringToBytes(hex); }

TEST(Sha256Test, HashesTheVectorsOfTheStandard) {
  EXPECT_EQ(Sha256Hex(""),
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(Sha256Hex("abc"),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(Sha256Hex(std::string(1'000'000, 'a')),
            "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

TEST(Sha256Test, HashesInPieces) {
  Sha256 hash;
  hash.Update("a");
  hash.Update("");
  Sha256 moved = std::move(hash);
  moved.Update("bc");
  EXPECT_EQ(moved.Finish(), Sha256Raw("abc"));
}

// The digest as OpenSSL computes it at once.
std::string Reference(absl::string_view bytes) {
  std::array<unsigned char, Sha256::kDigestBytes> digest;
  EXPECT_EQ(EVP_Digest(bytes.data(), bytes.size(), digest.data(), nullptr,
                       EVP_sha256(), nullptr),
            1);
  return {digest.begin(), digest.end()};
}

class Sha256BothTest : public ::testing::TestWithParam<Sha256::Both> {};

TEST_P(Sha256BothTest, IsTheSameAsFeedingEach) {
  std::mt19937 random(1);
  const auto below = [&random](size_t bound) {
    return std::uniform_int_distribution<size_t>(0, bound - 1)(random);
  };
  std::string data(20'000, '\0');
  for (char& byte : data) byte = static_cast<char>(random());
  for (int run = 0; run < 2'000; ++run) {
    Sha256 first;
    Sha256 second;
    std::string fed_first = data.substr(0, below(200));
    std::string fed_second = data.substr(300, below(200));
    first.Update(fed_first);
    second.Update(fed_second);
    for (size_t pieces = 1 + below(4); pieces > 0; --pieces) {
      // Of all alignments; often less than what is worth the effort.
      const size_t begin = below(1'000);
      const size_t size = below(run % 2 == 0 ? 700 : 6'000);
      const absl::string_view piece =
          absl::string_view(data).substr(begin, size);
      Sha256::UpdateBoth(first, second, piece, GetParam());
      absl::StrAppend(&fed_first, piece);
      absl::StrAppend(&fed_second, piece);
      // Alone in between, as one is when the other comes to its end.
      const absl::string_view alone = piece.substr(0, below(100));
      first.Update(alone);
      absl::StrAppend(&fed_first, alone);
    }
    SCOPED_TRACE(run);
    ASSERT_EQ(second.Finish(), Reference(fed_second));
    ASSERT_EQ(first.Finish(), Reference(fed_first));
  }
}

TEST_P(Sha256BothTest, CountsBeyond32BitsOfLength) {
  // 2^32 bits are 512 MiB; the length goes into the last block.
  const std::string data(size_t{8} << 20, 'x');
  Sha256 first;
  Sha256 second;
  Sha256 alone;
  second.Update("y");
  for (int i = 0; i < 65; ++i) {
    Sha256::UpdateBoth(first, second, data, GetParam());
    alone.Update(data);
  }
  EXPECT_EQ(first.Finish(), alone.Finish());
}

INSTANTIATE_TEST_SUITE_P(How, Sha256BothTest,
                         ::testing::Values(Sha256::Both::kFastest,
                                           Sha256::Both::kOneByOne));

TEST(Sha256Test, HashesAFileWhateverItsOffsetIs) {
  const UniqueFd fd(memfd_create("sha256", MFD_CLOEXEC));
  const std::string data(700'000, 'z');
  ASSERT_TRUE(WriteFully(fd.get(), data).ok());

  EXPECT_EQ(Sha256HexOfFd(fd.get()).value(), Sha256Hex(data));
  EXPECT_EQ(lseek(fd.get(), 0, SEEK_CUR), 700'000);
  EXPECT_FALSE(Sha256HexOfFd(-1).ok());
}

TEST(Base64Test, EncodesAndDecodesTheVectorsOfTheStandard) {
  for (const auto& [bytes, text] :
       std::initializer_list<std::pair<std::string, std::string>>{
           {"", ""},
           {"f", "Zg=="},
           {"fo", "Zm8="},
           {"foo", "Zm9v"},
           {"foob", "Zm9vYg=="},
           {"\xfb\xff", "+/8="}}) {
    EXPECT_EQ(Base64Encode(bytes), text);
    EXPECT_EQ(Base64Decode(text), bytes);
  }
}

TEST(Base64Test, HasOneSpellingForEachValue) {
  for (const absl::string_view text :
       {"Zg", "Zg=", "Zg===", "Zh==", "Zm9=", "Zm8", " Zm8=", "Zm8=\n",
        "Zm\n8=", "-_8=", "Z", "====", "Zm8=Zm8=", "Zm9v=", "Zg..", "Z g=="}) {
    EXPECT_EQ(Base64Decode(text), std::nullopt) << text;
  }
}

// RFC 8032, section 7.1: tests 1, 2 and 3.
TEST(Ed25519Test, VerifiesTheVectorsOfTheStandard) {
  struct Vector {
    absl::string_view key;
    absl::string_view message;
    absl::string_view signature;
  };
  for (const Vector& vector : std::initializer_list<Vector>{
           {"d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
            "",
            "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e06522490155"
            "5fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b"},
           {"3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
            "72",
            "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
            "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"},
           {"fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
            "af82",
            "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac"
            "18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40"
            "a"}}) {
    EXPECT_TRUE(VerifyEd25519(Hex(vector.key), Hex(vector.message),
                              Hex(vector.signature)));
    EXPECT_FALSE(VerifyEd25519(Hex(vector.key),
                               absl::StrCat(Hex(vector.message), "x"),
                               Hex(vector.signature)));
  }
}

TEST(Ed25519Test, SignsWhatItVerifies) {
  const auto key = PrivateKey::Generate();
  ASSERT_TRUE(key.ok());
  const std::string signature = key->Sign("message");

  EXPECT_EQ(key->public_key().size(), kPublicKeyBytes);
  EXPECT_EQ(signature.size(), kSignatureBytes);
  EXPECT_EQ(key->Sign("message"), signature);
  EXPECT_TRUE(VerifyEd25519(key->public_key(), "message", signature));
  EXPECT_FALSE(VerifyEd25519(key->public_key(), "massage", signature));
  EXPECT_FALSE(VerifyEd25519(PrivateKey::Generate()->public_key(), "message",
                             signature));
  EXPECT_FALSE(
      VerifyEd25519(key->public_key(), "message", signature.substr(0, 63)));
  EXPECT_FALSE(VerifyEd25519(key->public_key(), "message", signature + "x"));
  EXPECT_FALSE(VerifyEd25519("", "message", signature));
}

TEST(Ed25519Test, KeepsAKeyAsPem) {
  const auto key = PrivateKey::Generate();
  ASSERT_TRUE(key.ok());
  std::string pem = key->ToPem();

  const auto read = PrivateKey::FromPem(pem);

  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->public_key(), key->public_key());
  EXPECT_EQ(read->Sign("x"), key->Sign("x"));
  Wipe(pem);
  EXPECT_EQ(pem, "");
}

TEST(Ed25519Test, RefusesPemsThatAreNoSuchKey) {
  // An X25519 key, a public key, an encrypted key's header, and rubbish.
  for (const absl::string_view pem :
       {"-----BEGIN PRIVATE KEY-----\n"
        "MC4CAQAwBQYDK2VuBCIEIHgnOwpsi5Y8aIOTjOXVTcwNEHsiLmuVgzUKdQ9mT/Nb\n"
        "-----END PRIVATE KEY-----\n",
        "-----BEGIN PUBLIC KEY-----\n"
        "MCowBQYDK2VwAyEAWbp+kkKURLrqua4xr4f0kbdqGEiBaRy3dfTXPaWHbGg=\n"
        "-----END PUBLIC KEY-----\n",
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n"
        "-----END ENCRYPTED PRIVATE KEY-----\n",
        "", "rubbish"}) {
    EXPECT_FALSE(PrivateKey::FromPem(pem).ok()) << pem;
  }
}

// Points whose order divides 8, in every encoding that some implementation
// takes for one: y below p and not, both signs.
constexpr absl::string_view kSmallOrder[] = {
    "0100000000000000000000000000000000000000000000000000000000000000",
    "0100000000000000000000000000000000000000000000000000000000000080",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0000000000000000000000000000000000000000000000000000000000000080",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff"};

// Other encodings with y at or above p.
constexpr absl::string_view kNotCanonical[] = {
    "efffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "f3ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff"};

TEST(Ed25519Test, RefusesKeysThatAnybodyCanSignFor) {
  // With R the identity and S zero, S·B = R + k·A holds for every message that
  // k happens to be a multiple of 8 for.
  const std::string signature = Hex(kSmallOrder[0]) + std::string(32, '\0');
  for (const absl::string_view key : kSmallOrder) {
    EXPECT_FALSE(IsUsablePublicKey(Hex(key))) << key;
    for (int i = 0; i < 32; ++i) {
      EXPECT_FALSE(
          VerifyEd25519(Hex(key), absl::StrCat("message ", i), signature))
          << key;
    }
  }
  for (const absl::string_view key : kNotCanonical) {
    EXPECT_FALSE(IsUsablePublicKey(Hex(key))) << key;
  }
}

TEST(Ed25519Test, KnowsUsableKeys) {
  EXPECT_TRUE(IsUsablePublicKey(PrivateKey::Generate()->public_key()));
  // p - 2 is the largest y that is not of small order; whether it is on the
  // curve is for the verification to find out.
  EXPECT_TRUE(IsUsablePublicKey(
      Hex("ebffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f")));
  EXPECT_FALSE(IsUsablePublicKey(std::string(31, 'x')));
  EXPECT_FALSE(IsUsablePublicKey(std::string(33, 'x')));
  EXPECT_FALSE(IsUsablePublicKey(""));
}

TEST(Ed25519Test, RefusesAnRThatIsOfSmallOrderOrNotCanonical) {
  const auto key = PrivateKey::Generate();
  ASSERT_TRUE(key.ok());
  const std::string tail = key->Sign("message").substr(32);
  for (const absl::string_view r : kSmallOrder) {
    EXPECT_FALSE(VerifyEd25519(key->public_key(), "message", Hex(r) + tail));
    EXPECT_FALSE(VerifyEd25519(key->public_key(), "message",
                               Hex(r) + std::string(32, '\0')));
  }
  for (const absl::string_view r : kNotCanonical) {
    EXPECT_FALSE(VerifyEd25519(key->public_key(), "message", Hex(r) + tail));
  }
}

TEST(Ed25519Test, RefusesAnSThatIsNotReduced) {
  // S + L satisfies the same equation.
  const std::string order =
      Hex("edd3f55c1a631258d69cf7a2def9de1400000000000000000000000000000010");
  const auto key = PrivateKey::Generate();
  ASSERT_TRUE(key.ok());
  std::string signature = key->Sign("message");
  ASSERT_TRUE(VerifyEd25519(key->public_key(), "message", signature));
  unsigned carry = 0;
  for (size_t i = 0; i < 32; ++i) {
    carry += static_cast<unsigned char>(signature[32 + i]);
    carry += static_cast<unsigned char>(order[i]);
    signature[32 + i] = static_cast<char>(carry & 0xff);
    carry >>= 8;
  }
  EXPECT_FALSE(VerifyEd25519(key->public_key(), "message", signature));
}

TEST(Ed25519Test, NamesKeysByTheirHash) {
  EXPECT_EQ(
      KeyId(*Base64Decode("Wbp+kkKURLrqua4xr4f0kbdqGEiBaRy3dfTXPaWHbGg=")),
      "06942074b366bc7d0ef773ed5e5a7b8dad2c88f2804349ffab13c2d7fc763dd3");
}

}  // namespace
}  // namespace mycelium::crypto
