// Small text: what snprintf and string.h would do, freestanding and bounded.
#pragma once
#include <stddef.h>
#include <stdint.h>

namespace shortfuse::bypass {

inline size_t text_len(const char *s) {
  size_t n = 0;
  while (s[n] != 0) ++n;
  return n;
}

inline bool bytes_equal(const void *a, const void *b, size_t n) {
  const char *x = static_cast<const char *>(a), *y = static_cast<const char *>(b);
  for (size_t i = 0; i < n; ++i) {
    if (x[i] != y[i]) return false;
  }
  return true;
}

inline bool text_is(const char *s, const char *other) {
  size_t n = text_len(other);
  return bytes_equal(s, other, n) && s[n] == 0;
}

/// Not bytes_equal: stops at the end of s, which the caller may own.
inline bool text_starts(const char *s, const char *prefix) {
  for (; *prefix != 0; ++s, ++prefix) {
    if (*s != *prefix) return false;
  }
  return true;
}

/// Appends to a caller's buffer; what does not fit is left out, and full() says so.
class Text {
 public:
  Text(char *at, size_t cap) : at_(at), cap_(cap) {}
  Text &add(const char *s) { return add(s, text_len(s)); }
  Text &add(const char *s, size_t n) {
    for (size_t i = 0; i < n; ++i) put(s[i]);
    return *this;
  }
  Text &num(uint64_t v) {
    char digits[20];
    int n = 0;
    do {
      digits[n++] = static_cast<char>('0' + v % 10);
      v /= 10;
    } while (v != 0);
    while (n > 0) put(digits[--n]);
    return *this;
  }
  Text &json(const char *s, size_t n) {
    put('"');
    for (size_t i = 0; i < n && s[i] != 0; ++i) {
      unsigned char c = static_cast<unsigned char>(s[i]);
      if (c == '"' || c == '\\') put('\\');
      if (c >= 32) {
        put(static_cast<char>(c));
      } else {
        static const char kHex[] = "0123456789abcdef";
        add("\\u00").put(kHex[c >> 4]);
        put(kHex[c & 15]);
      }
    }
    put('"');
    return *this;
  }
  Text &put(char c) {
    if (len_ + 1 < cap_) {
      at_[len_++] = c;
      at_[len_] = 0;
    } else {
      full_ = true;
    }
    return *this;
  }
  size_t len() const { return len_; }
  bool full() const { return full_; }
  const char *c_str() const { return at_; }

 private:
  char *at_;
  size_t cap_;
  size_t len_ = 0;
  bool full_ = false;
};

}  // namespace shortfuse::bypass
