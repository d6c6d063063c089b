#ifndef SERVICES_EDGE_BYTE_SCAN_H_
#define SERVICES_EDGE_BYTE_SCAN_H_

namespace mycelium::edge {

// The first byte in [begin, end) that may not stand inside a line of an HTTP
// head: a control byte other than HTAB, which includes CR and LF, or DEL.
// Returns `end` if there is none. Scans 16 or 32 bytes at a time where the
// target has SSE2 or AVX2.
const char* FindControl(const char* begin, const char* end);

// The same, a byte at a time: the fallback, and what the other is tested
// against.
const char* FindControlPortable(const char* begin, const char* end);

}  // namespace mycelium::edge

#endif  // SERVICES_EDGE_BYTE_SCAN_H_
