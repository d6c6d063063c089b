#ifndef LIB_BASE_VERSION_H_
#define LIB_BASE_VERSION_H_

namespace mycelium {

// Version of every program of this tree.
inline constexpr char kVersion[] = "0.1.0";

}  // namespace mycelium

#endif  // LIB_BASE_VERSION_H_
