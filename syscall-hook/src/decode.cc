// Where one x86-64 instruction ends and what it may do. See decode.h.
//
// Two bit tables say per opcode whether a ModRM byte follows and how many immediate bytes; the rest is prefixes and
// the handful of opcodes whose shape depends on ModRM. Source: Intel SDM volume 2, appendix A.
#include "decode.h"

#include <initializer_list>

namespace {

enum : uint8_t {
  N = 0,       // nothing follows
  M = 1,       // ModRM
  B = 2,       // imm8
  W = 4,       // imm16
  Z = 8,       // imm16 or imm32 by operand size
  R8 = 16,     // rel8
  R32 = 32,    // rel32
  MB = M | B,
  MZ = M | Z,
  S = 64,      // special: handled in code
  X = 128,     // not an instruction in 64-bit mode
};

constexpr uint8_t kOneByte[256] = {
    M, M, M, M, B, Z, X, X, M, M, M, M, B, Z, X, S, M, M, M, M, B, Z, X, X, M, M, M, M, B, Z, X, X,
    M, M, M, M, B, Z, X, X, M, M, M, M, B, Z, X, X, M, M, M, M, B, Z, X, X, M, M, M, M, B, Z, X, X,
    X, X, X, X, X, X, X, X, X, X, X, X, X, X, X, X, N, N, N, N, N, N, N, N, N, N, N, N, N, N, N, N,
    X, X, S, M, X, X, X, X, Z, MZ, B, MB, N, N, N, N, R8, R8, R8, R8, R8, R8, R8, R8, R8, R8, R8, R8, R8, R8, R8, R8,
    MB, MZ, X, MB, M, M, M, M, M, M, M, M, M, M, M, S, N, N, N, N, N, N, N, N, N, N, X, N, N, N, N, N,
    S, S, S, S, N, N, N, N, B, Z, N, N, N, N, N, N, B, B, B, B, B, B, B, B, S, S, S, S, S, S, S, S,
    MB, MB, W, N, S, S, MB, MZ, W | B, N, W, N, N, B, X, N, M, M, M, M, X, X, X, N, M, M, M, M, M, M, M, M,
    R8, R8, R8, R8, B, B, B, B, R32, R32, X, R8, N, N, N, N, X, N, X, X, N, N, S, S, N, N, N, N, N, N, M, M,
};

constexpr uint8_t kTwoByte[256] = {
    M, M, M, M, X, N, N, N, N, N, X, N, X, M, N, MB, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M,
    X, X, X, X, X, X, X, X, M, M, M, M, M, M, M, M, N, N, N, N, N, N, X, N, S, X, S, X, X, X, X, X,
    M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M,
    M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, MB, MB, MB, MB, M, M, M, N, S, M, X, X, M, M, M, M,
    R32, R32, R32, R32, R32, R32, R32, R32, R32, R32, R32, R32, R32, R32, R32, R32,
    M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M,
    N, N, N, M, MB, M, X, X, N, N, N, M, MB, M, M, M, M, M, M, M, M, M, M, M, M, M, MB, M, M, M, M, M,
    M, M, MB, M, MB, MB, MB, M, N, N, N, N, N, N, N, N, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M,
    M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M, M,
};

struct Cursor {
  const uint8_t *code;
  size_t bytes;
  size_t at;
  bool operand16;
  bool address32;
  bool segment;
  bool repeat;
  uint8_t rex;
  uint8_t modrm;
  bool has_modrm;
  unsigned map;     // 1: one byte, 2: 0f, 3: 0f 38, 4: 0f 3a, 5: VEX or EVEX
  uint8_t opcode;
  uint8_t shape;
};

int32_t read32(const uint8_t *p) {
  return (int32_t)((uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24);
}

// 26 2e 36 3e 64 to 67 f0 f2 f3
constexpr uint64_t kPrefixes[4] = {1ull << 0x26 | 1ull << 0x2e | 1ull << 0x36 | 1ull << 0x3e, 0xfull << 0x24, 0,
                                   0xdull << 0x30};

constexpr bool is_prefix(uint8_t byte) { return kPrefixes[byte >> 6] >> (byte & 63) & 1; }

bool read_prefixes(Cursor *c) {
  for (; c->at < c->bytes && c->at < 14; c->at++) {
    uint8_t byte = c->code[c->at];
    if (!is_prefix(byte)) {
      break;
    } else if (byte == 0x66) {
      c->operand16 = true;
    } else if (byte == 0x67) {
      c->address32 = true;
    } else if (byte == 0xf0 || byte == 0xf2 || byte == 0xf3) {
      c->repeat = true;
    } else {
      c->segment = true;
    }
  }
  if (c->at < c->bytes && (c->code[c->at] & 0xf0) == 0x40) c->rex = c->code[c->at++];
  return c->at < c->bytes;
}

// c4, c5 and 62: the map and the opcode follow the payload bytes.
bool read_vex(Cursor *c, uint8_t first) {
  unsigned payload = first == 0xc5 ? 1 : first == 0xc4 ? 2 : 3;
  if (c->rex || c->at + payload + 1 > c->bytes) return false;
  unsigned map = first == 0xc5 ? 1 : first == 0xc4 ? c->code[c->at] & 0x1f : c->code[c->at] & 7;
  c->at += payload;
  c->opcode = c->code[c->at++];
  c->map = 5;
  c->shape = M;
  if (map == 1) {
    if (c->opcode == 0x77 && first != 0x62) c->shape = N;  // vzeroupper
    else if (kTwoByte[c->opcode] == MB) c->shape = MB;
    return !(kTwoByte[c->opcode] & R32);  // jkzd, of a processor nobody has
  }
  if (map == 3) c->shape = MB;
  return map == 2 || map == 3 || (first == 0x62 && (map == 5 || map == 6));
}

bool read_opcode(Cursor *c) {
  c->opcode = c->code[c->at++];
  c->map = 1;
  c->shape = kOneByte[c->opcode];
  if (c->opcode == 0x0f) {
    if (c->at >= c->bytes) return false;
    c->opcode = c->code[c->at++];
    c->map = 2;
    c->shape = kTwoByte[c->opcode];
    if (c->opcode == 0x38 || c->opcode == 0x3a) {
      if (c->at >= c->bytes) return false;
      c->map = c->opcode == 0x38 ? 3 : 4;
      c->shape = c->opcode == 0x38 ? M : MB;
      c->opcode = c->code[c->at++];
    } else if (c->opcode == 0x78) {  // vmread, or extrq/insertq with two immediates
      c->shape = c->operand16 || c->repeat ? X : M;
    }
    return c->shape != X;
  }
  if (c->opcode == 0xc4 || c->opcode == 0xc5 || c->opcode == 0x62) return read_vex(c, c->opcode);
  if (c->opcode == 0x8f) {  // pop; with another reg field it is an XOP prefix
    c->shape = c->at < c->bytes && (c->code[c->at] & 0x38) == 0 ? M : X;
  }
  return c->shape != X;
}

// Returns the bytes of ModRM, SIB and displacement, 0 when they are cut off.
size_t read_modrm(Cursor *c, struct sf_insn *insn) {
  if (c->at >= c->bytes) return 0;
  c->modrm = c->code[c->at];
  c->has_modrm = true;
  unsigned mod = c->modrm >> 6, rm = c->modrm & 7;
  size_t size = 1, displacement = mod == 1 ? 1 : mod == 2 ? 4 : 0;
  if (mod != 3 && rm == 4) {
    if (c->at + 1 >= c->bytes) return 0;
    if (mod == 0 && (c->code[c->at + 1] & 7) == 5) displacement = 4;
    size++;
  } else if (mod == 0 && rm == 5) {
    insn->flags |= SF_INSN_RIP_RELATIVE;
    insn->disp_at = (uint8_t)(c->at + 1);
    displacement = 4;
  }
  return size + displacement;
}

size_t immediate_bytes(const Cursor *c) {
  size_t z = c->operand16 && !(c->rex & 8) ? 2 : 4;
  if (c->map == 1) {
    if (c->opcode >= 0xb8 && c->opcode <= 0xbf) return c->rex & 8 ? 8 : z;
    if (c->opcode >= 0xa0 && c->opcode <= 0xa3) return c->address32 ? 4 : 8;
    if (c->opcode == 0xf6) return (c->modrm & 0x30) == 0 ? 1 : 0;
    if (c->opcode == 0xf7) return (c->modrm & 0x30) == 0 ? z : 0;
    if (c->opcode == 0xc7 && c->modrm == 0xf8) return 4;  // xbegin
  }
  return (c->shape & B ? 1 : 0) + (c->shape & W ? 2 : 0) + (c->shape & Z ? z : 0) + (c->shape & R8 ? 1 : 0) +
         (c->shape & R32 ? 4 : 0);
}

void note_branch(const Cursor *c, uint64_t address, struct sf_insn *insn) {
  bool xbegin = c->map == 1 && c->opcode == 0xc7 && c->modrm == 0xf8 && c->has_modrm;
  if (!(c->shape & (R8 | R32)) && !xbegin) return;
  uint64_t next = address + insn->length;
  const uint8_t *end = c->code + insn->length;
  insn->flags |= SF_INSN_BRANCH;
  insn->target = next + (c->shape & R8 ? (int64_t)(int8_t)end[-1] : (int64_t)read32(end - 4));
  if (c->map == 1 && c->opcode == 0xe8) insn->flags |= SF_INSN_CALL;
  if (c->map == 1 && (c->opcode == 0xe9 || c->opcode == 0xeb)) insn->flags |= SF_INSN_ENDS;
}

// Of opcode ff, by its ModRM.
constexpr uint32_t indirect_flags(uint8_t modrm) {
  const unsigned reg = modrm >> 3 & 7;
  uint32_t flags = 0;
  if (reg == 4 || reg == 5) flags |= SF_INSN_INDIRECT | SF_INSN_ENDS;
  // Through memory without an index it is a vtable or a pointer.
  if (reg == 4 && (modrm >> 6 == 3 || (modrm & 7) == 4)) flags |= SF_INSN_TABLE;
  if (reg == 2 || reg == 3) flags |= SF_INSN_CALL;
  return flags;
}

void note_control(const Cursor *c, struct sf_insn *insn) {
  if (c->map == 2) {
    if (c->opcode == 0x05) insn->flags |= SF_INSN_SYSCALL;
    if (c->opcode == 0x0b) insn->flags |= SF_INSN_ENDS;
    return;
  }
  if (c->map != 1) return;
  if (c->opcode == 0xc2 || c->opcode == 0xc3 || c->opcode == 0xca || c->opcode == 0xcb || c->opcode == 0xcf ||
      c->opcode == 0xf4)
    insn->flags |= SF_INSN_ENDS;
  if (c->opcode == 0xff) insn->flags |= indirect_flags(c->modrm);
}

struct Shape {
  int reg, rm;   // register fields of ModRM
  bool direct;   // rm is a register
};

constexpr int kNotMovable = -2;

// Operand size of a byte without REX: registers 4 to 7 would be ah, ch, dh and bh.
bool is_high_byte(const Cursor *c, int reg) { return reg >= 4 && !c->rex; }

void note_constant(const Cursor *c, struct sf_insn *insn, bool zero) {
  if (c->operand16) return;
  insn->flags |= SF_INSN_CONST;
  insn->imm = zero ? 0 : read32(c->code + insn->length - 4);
}

void note_copy(const Cursor *c, struct sf_insn *insn, int source) {
  if (c->operand16) return;
  insn->flags |= SF_INSN_MOV_REG;
  insn->source = (int8_t)source;
}

// add or adc sbb and sub xor cmp. Like the next two: the register written, -1 for none, or kNotMovable.
int dest_of_arithmetic(const Cursor *c, const Shape &s, struct sf_insn *insn) {
  const uint8_t op = c->opcode, form = op & 7;
  if ((op & 0x38) == 0x38) return -1;  // cmp
  if (form >= 4) return 0;
  int dest = form & 2 ? s.reg : s.direct ? s.rm : -1;
  if (!(form & 1) && is_high_byte(c, dest)) return kNotMovable;
  if ((op == 0x31 || op == 0x33) && s.direct && s.reg == s.rm) note_constant(c, insn, true);
  return dest;
}

int dest_of_one_byte(const Cursor *c, const Shape &s, struct sf_insn *insn) {
  const uint8_t op = c->opcode;
  const int direct_rm = s.direct ? s.rm : -1;
  const bool compares = (c->modrm & 0x38) == 0x38;
  if (op < 0x40 && (op & 7) < 6) return dest_of_arithmetic(c, s, insn);
  if (op >= 0xb8 && op <= 0xbf) {
    if (c->rex & 8 || c->operand16) return kNotMovable;  // imm64: rare, and longer than a slot cares for
    note_constant(c, insn, false);
    return (op & 7) | (c->rex & 1 ? 8 : 0);
  }
  switch (op) {
    case 0x88: return is_high_byte(c, direct_rm) ? kNotMovable : direct_rm;
    case 0x89:
      if (s.direct) note_copy(c, insn, s.reg);
      return direct_rm;
    case 0x8b:
      if (s.direct) note_copy(c, insn, s.rm);
      return s.reg;
    case 0x8d:
    case 0x63: return s.reg;
    case 0x84:
    case 0x85:
    case 0xa8:
    case 0xa9: return -1;
    case 0x80:
      if (is_high_byte(c, direct_rm)) return kNotMovable;
      return compares ? -1 : direct_rm;
    case 0x81:
    case 0x83: return compares ? -1 : direct_rm;
    case 0xc7:
      if (c->modrm & 0x38) return kNotMovable;
      if (s.direct) note_constant(c, insn, false);
      return direct_rm;
    case 0xc1:
    case 0xd1: return direct_rm;
    case 0x90: return c->rex & 1 ? kNotMovable : -1;
  }
  return kNotMovable;
}

int dest_of_two_bytes(const Cursor *c, const Shape &s, struct sf_insn *insn) {
  const uint8_t op = c->opcode;
  if (op >= 0x40 && op <= 0x4f && s.direct && !c->operand16) {
    insn->flags |= SF_INSN_CMOV_REG;
    insn->source = (int8_t)s.rm;
  }
  if ((op >= 0x40 && op <= 0x4f) || op == 0xb6 || op == 0xb7 || op == 0xbe || op == 0xbf) return s.reg;  // cmov, movzx
  return op == 0x1f ? -1 : kNotMovable;
}

// The short list of what compilers put around a system call. Everything else stays where it is.
void note_movable(const Cursor *c, struct sf_insn *insn) {
  if (c->address32 || c->repeat || (c->map != 1 && c->map != 2)) return;
  const Shape shape = {(c->modrm >> 3 & 7) | (c->rex & 4 ? 8 : 0), (c->modrm & 7) | (c->rex & 1 ? 8 : 0),
                       c->modrm >> 6 == 3};
  int dest = c->map == 1 ? dest_of_one_byte(c, shape, insn) : dest_of_two_bytes(c, shape, insn);
  if (dest == kNotMovable || dest == 4) {  // 4: the stack pointer
    insn->flags &= ~(SF_INSN_CONST | SF_INSN_MOV_REG | SF_INSN_CMOV_REG);
    return;
  }
  insn->dest = (int8_t)dest;
  insn->flags |= SF_INSN_MOVABLE;
}

// ---- the general registers that an instruction may write

constexpr uint16_t kAx = 1, kCx = 2, kDx = 4, kBx = 8, kSp = 16, kBp = 32, kSi = 64, kDi = 128, kR11 = 2048,
                   kEvery = 0xffff;

struct Written {
  uint16_t reg, rm;  // of ModRM; rm: 0 where it is memory
  uint16_t low;      // the register in the opcode itself
};

// A byte register without REX may be the second byte of one of the first four.
Written fields_of(const Cursor *c, bool byte) {
  auto one = [&](unsigned number, unsigned extension) -> uint16_t {
    const bool second = byte && !c->rex && number >= 4;
    return (uint16_t)(1u << (second ? number - 4 : number | (c->rex & extension ? 8 : 0)));
  };
  return {one(c->modrm >> 3 & 7, 4), c->modrm >> 6 == 3 ? one(c->modrm & 7, 1) : (uint16_t)0,
          one(c->opcode & 7u, 1)};
}

uint16_t written_by_group(const Cursor *c, const Written &w) {
  const unsigned form = c->modrm >> 3 & 7;
  switch (c->opcode) {
    case 0xf6: case 0xf7: return form < 2 ? 0 : form < 4 ? w.rm : kAx | kDx;  // test, not, neg, mul, div
    case 0xfe: return w.rm;
    case 0xff: return form < 2 ? w.rm : form == 4 || form == 5 ? 0 : kSp;
    case 0xc6: case 0xc7: return form ? kAx : w.rm;  // xbegin
    case 0xdf: return kAx;                           // fnstsw
  }
  return form == 7 ? 0 : w.rm;  // 80 to 83, of which /7 compares
}

uint16_t written_by_strings(const Cursor *c) {
  switch (c->opcode & 0xfe) {
    case 0xaa: case 0xae: case 0x6c: return kDi | kCx;
    case 0xac: return kAx | kSi | kCx;
    case 0x6e: return kSi | kCx;
  }
  return kSi | kDi | kCx;
}

uint16_t written_by_one_byte(const Cursor *c) {
  const uint8_t op = c->opcode, form = op & 7;
  const bool byte = op < 0x40 ? !(form & 1) : (op >= 0xb0 && op <= 0xb7) || !(op & 1);
  const Written w = fields_of(c, byte);
  if (op < 0x40) return (op & 0x38) == 0x38 ? 0 : form >= 4 ? kAx : form & 2 ? w.reg : w.rm;
  if (op >= 0x50 && op <= 0x57) return kSp;
  const Written wide = fields_of(c, false);
  if (op >= 0x58 && op <= 0x5f) return kSp | wide.low;
  if (op >= 0x70 && op <= 0x7f) return 0;
  if (op >= 0x91 && op <= 0x97) return kAx | wide.low;
  if (op >= 0xb0 && op <= 0xb7) return w.low;
  if (op >= 0xb8 && op <= 0xbf) return wide.low;
  if (op >= 0xd8 && op <= 0xde) return 0;
  switch (op) {
    case 0x63: case 0x69: case 0x6b: case 0x8d: return wide.reg;
    case 0x68: case 0x6a: case 0x9c: case 0x9d: case 0xe8: case 0xc2: case 0xc3: return kSp;
    case 0x84: case 0x85: case 0x8e: case 0x9b: case 0x9e: case 0xa2: case 0xa3: case 0xa8:
    case 0xa9: case 0xcc: case 0xe9: case 0xeb: case 0xf4: case 0xf5: case 0xf8: case 0xf9:
    case 0xfc: case 0xfd: return 0;
    case 0x86: case 0x87: return w.reg | w.rm;
    case 0x88: case 0x89: return w.rm;
    case 0x8a: case 0x8b: return w.reg;
    case 0x8c: return wide.rm;
    case 0x8f: return kSp | wide.rm;
    case 0x90: return c->rex & 1 ? kAx | wide.low : 0;
    case 0x98: case 0x9f: case 0xa0: case 0xa1: case 0xd7: return kAx;
    case 0x99: return kDx;
    case 0xc0: case 0xc1: case 0xd0: case 0xd1: case 0xd2: case 0xd3: return w.rm;
    case 0xc9: return kSp | kBp;
    case 0xe0: case 0xe1: case 0xe2: case 0xe3: return kCx;
    case 0x80: case 0x81: case 0x83: case 0xc6: case 0xc7: case 0xdf: case 0xf6: case 0xf7:
    case 0xfe: case 0xff: return written_by_group(c, w);
  }
  const bool string = (op >= 0x6c && op <= 0x6f) || (op >= 0xa4 && op <= 0xaf);
  return string ? written_by_strings(c) : kEvery;
}

uint16_t written_by_two_bytes(const Cursor *c) {
  const uint8_t op = c->opcode;
  const Written byte = fields_of(c, true), w = fields_of(c, false);
  if (op >= 0x90 && op <= 0x9f) return byte.rm;  // setcc
  if ((op >= 0x40 && op <= 0x4f) || op == 0x50 || op == 0x2c || op == 0x2d) return w.reg;
  if ((op >= 0x80 && op <= 0x8f) || (op >= 0x10 && op <= 0x17)) return 0;
  if (op == 0x28 || op == 0x29 || op == 0x2a || op == 0x2b || op == 0x2e || op == 0x2f) return 0;
  if (op >= 0x51 && op <= 0x77) return 0;
  if (op >= 0xc8 && op <= 0xcf) return w.low;
  if (op == 0xd7) return w.reg;
  if (op >= 0xd0 && op <= 0xfe) return 0;
  switch (op) {
    case 0x05: return kAx | kCx | kR11;
    case 0x0b: case 0x0d: case 0x18: case 0x1f: case 0x7c: case 0x7d: case 0x7f: case 0xa3:
    case 0xc2: case 0xc3: case 0xc4: case 0xc6: return 0;
    case 0x1e: return c->repeat ? w.rm : 0;  // endbr64; rdsspq
    case 0x31: return kAx | kDx;
    case 0x7e: case 0xa4: case 0xa5: case 0xab: case 0xac: case 0xad: case 0xb3: case 0xba:
    case 0xbb: return w.rm;
    case 0xa2: return kAx | kBx | kCx | kDx;
    case 0xaf: case 0xb6: case 0xb7: case 0xb8: case 0xbc: case 0xbd: case 0xbe: case 0xbf:
    case 0xc5: return w.reg;
    case 0xae: return c->repeat ? w.rm : 0;  // rdfsbase; fences
    case 0xb0: return kAx | byte.rm;
    case 0xb1: return kAx | w.rm;
    case 0xc0: return byte.reg | byte.rm;
    case 0xc1: return w.reg | w.rm;
    case 0xc7: return kAx | kDx | w.rm;
  }
  return kEvery;
}

uint16_t written_by(const Cursor *c) {
  if (c->map == 1) return written_by_one_byte(c);
  if (c->map == 2) return written_by_two_bytes(c);
  const Written w = fields_of(c, false);
  if (c->map == 3 && c->opcode < 0xf0) return 0;
  if (c->map == 3 && c->opcode <= 0xf1) return w.reg;  // movbe, crc32
  if (c->map == 4 && c->opcode >= 0x60 && c->opcode <= 0x63) return kCx;
  if (c->map == 4 && c->opcode < 0xf0) return w.rm;
  return kEvery;
}

// ---- the instructions that text mostly consists of, by one table
//
// An entry per opcode says what there is to know of it: the flags of the instruction in its low byte, and these. What
// the table does not know, and instructions at the end of the readable bytes, go the long way.
constexpr uint32_t kBytesBehind = 0xf00;  // behind ModRM and what belongs to it
constexpr uint32_t kModRm = 0x1000;
constexpr uint32_t kLook = 0x2000;        // prefixes or ModRM change something
constexpr uint32_t kWide = 0x4000;        // a constant of 16 bits behind the prefix 66
constexpr uint32_t kPrefix = 0x8000, kRex = 0x10000, kEscape = 0x20000, kLongWay = 0x40000;
constexpr size_t kCommonBytesMax = 16;
constexpr size_t kCommonPrefixesMax = 4;  // with as many, no byte is read behind kCommonBytesMax

constexpr uint32_t entry_of(uint8_t shape) {
  const uint32_t behind = (shape & (B | R8) ? 1u : 0) + (shape & W ? 2u : 0) + (shape & (Z | R32) ? 4u : 0);
  return behind << 8 | (shape & M ? kModRm : 0) | (shape & Z ? kWide : 0) |
         (shape & (R8 | R32) ? SF_INSN_BRANCH : 0);
}

struct CommonTable {
  uint32_t of[512];  // one byte opcodes, then those behind 0f
};
constexpr CommonTable make_common_table() {
  CommonTable table{};
  for (unsigned op = 0; op < 256; op++) {
    const uint8_t shape = kOneByte[op], shape_too = kTwoByte[op];
    table.of[op] = shape & S || shape == X ? kLongWay : entry_of(shape);
    table.of[256 + op] = shape_too & S || shape_too == X ? kLongWay : entry_of(shape_too);
    if (is_prefix((uint8_t)op)) table.of[op] = kPrefix;
    if ((op & 0xf0) == 0x40) table.of[op] = kRex;
    if ((op & 0xf8) == 0xb8) table.of[op] = entry_of(Z) | kLook;
  }
  for (unsigned op : {0xc2, 0xc3, 0xca, 0xcb, 0xcf, 0xf4, 0xe9, 0xeb}) table.of[op] |= SF_INSN_ENDS;
  for (unsigned op : {0x8f, 0xc4, 0xc5, 0x62, 0x67}) table.of[op] = kLongWay;
  for (unsigned op : {0xf6, 0xf7}) table.of[op] = kModRm | kLook;
  for (unsigned op : {0xc7, 0xff}) table.of[op] |= kLook;
  for (unsigned op : {0x38, 0x3a, 0x78}) table.of[256 + op] = kLongWay;
  table.of[0x0f] = kEscape;
  table.of[0xe8] |= SF_INSN_CALL;
  table.of[256 + 0x05] |= SF_INSN_SYSCALL;
  table.of[256 + 0x0b] |= SF_INSN_ENDS;
  return table;
}
constexpr CommonTable kCommon = make_common_table();

// ModRM with its SIB and displacement.
inline size_t modrm_bytes(const uint8_t *p, uint32_t *flags) {
  const unsigned mod = p[0] >> 6, rm = p[0] & 7;
  if (mod == 3) return 1;
  size_t size = 1 + (mod == 1 ? 1 : mod == 2 ? 4 : 0);
  if (rm == 4) return size + 1 + (mod == 0 && (p[1] & 7) == 5 ? 4 : 0);
  if (mod == 0 && rm == 5) {
    *flags |= SF_INSN_RIP_RELATIVE;
    return 5;
  }
  return size;
}

// What was found out beside, for who wants to know more.
struct Common {
  bool operand16, repeat, second;
  uint8_t rex, opcode, modrm;
};

// Of an entry with kLook: how many bytes are behind, or -1 for the long way.
inline int look(const Common &c, uint32_t *flags) {
  switch (c.opcode) {
    case 0xff: *flags |= indirect_flags(c.modrm); return 0;
    case 0xc7: return c.modrm == 0xf8 ? -1 : 4;                               // xbegin
    case 0xf6: return c.modrm & 0x30 ? 0 : 1;                                 // test
    case 0xf7: return c.modrm & 0x30 ? 0 : c.operand16 ? -1 : 4;
  }
  return c.rex & 8 ? 8 : 4;                                                   // mov of a constant
}

// Length and flow. False: it has to be looked at the long way.
[[gnu::always_inline]] inline bool decode_common(const uint8_t *code, size_t bytes, uint64_t address, Common *c,
                                                 struct sf_insn *insn) {
  if (bytes < kCommonBytesMax) return false;
  *c = {};
  const uint8_t *p = code;
  uint32_t entry = kCommon.of[*p];
  while (entry & kPrefix) {
    if (p == code + kCommonPrefixesMax) return false;
    c->operand16 |= *p == 0x66;
    c->repeat |= *p >= 0xf0;
    entry = kCommon.of[*++p];
  }
  if (entry & kRex) {
    c->rex = *p++;
    entry = kCommon.of[*p];
  }
  if (entry & kEscape) {
    c->second = true;
    entry = kCommon.of[256u + *++p];
  }
  if (entry & (kLongWay | kPrefix | kRex) || (c->operand16 && entry & kWide)) return false;
  c->opcode = *p++;
  uint32_t flags = entry & 0xff;
  if (entry & kModRm) {
    c->modrm = *p;
    const uint8_t *at = p;
    p += modrm_bytes(p, &flags);
    if (flags & SF_INSN_RIP_RELATIVE) insn->disp_at = (uint8_t)(at + 1 - code);
  }
  int behind = (int)((entry & kBytesBehind) >> 8);
  if (entry & kLook && (behind = look(*c, &flags)) < 0) return false;
  p += behind;
  if (p > code + 15) return false;
  insn->length = (uint8_t)(p - code);
  insn->flags = flags;
  if (flags & SF_INSN_BRANCH)
    insn->target = address + insn->length + (behind == 1 ? (int64_t)(int8_t)p[-1] : (int64_t)read32(p - 4));
  return true;
}

enum Detail { kFlow, kMove, kAll };

void note_rest(const Cursor *c, Detail detail, struct sf_insn *insn) {
  if (detail == kFlow) return;
  note_movable(c, insn);
  if (detail == kAll) insn->writes = written_by(c);
}

__attribute__((noinline)) int decode_long(const uint8_t *code, size_t bytes, uint64_t address, Detail detail,
                                          struct sf_insn *insn) {
  Cursor c = {};
  c.code = code;
  c.bytes = bytes;
  if (!read_prefixes(&c) || !read_opcode(&c)) return -1;
  bool modrm = c.shape & M || (c.map == 1 && (c.opcode == 0xf6 || c.opcode == 0xf7));
  if (modrm) {
    size_t size = read_modrm(&c, insn);
    if (!size) return -1;
    c.at += size;
  }
  c.at += immediate_bytes(&c);
  if (c.at > bytes || c.at > 15) return -1;
  insn->length = (uint8_t)c.at;
  note_branch(&c, address, insn);
  note_control(&c, insn);
  note_rest(&c, detail, insn);
  return 0;
}

[[gnu::always_inline]] inline int decode(const uint8_t *code, size_t bytes, uint64_t address, Detail detail,
                                         struct sf_insn *insn) {
  *insn = {};
  insn->dest = -1;
  insn->source = -1;
  Common common;
  if (!decode_common(code, bytes, address, &common, insn)) return decode_long(code, bytes, address, detail, insn);
  if (detail == kFlow) return 0;
  Cursor c;
  c.code = code;
  c.operand16 = common.operand16;
  c.address32 = false;
  c.repeat = common.repeat;
  c.rex = common.rex;
  c.modrm = common.modrm;
  c.map = common.second ? 2 : 1;
  c.opcode = common.opcode;
  note_rest(&c, detail, insn);
  return 0;
}

// mov $imm32,%r32 without a prefix: what stands before nearly every system call.
inline bool decode_constant(const uint8_t *code, size_t bytes, struct sf_insn *insn) {
  if (bytes < 5 || (code[0] & 0xf8) != 0xb8) return false;
  const uint8_t reg = code[0] & 7;
  if (reg == 4) return false;  // not movable
  *insn = {5, 0, (int8_t)reg, -1, SF_INSN_MOVABLE | SF_INSN_CONST, (uint16_t)(1u << reg), read32(code + 1), 0};
  return true;
}

}  // namespace

int sf_decode(const uint8_t *code, size_t bytes, uint64_t address, struct sf_insn *insn) {
  return decode(code, bytes, address, kAll, insn);
}

int sf_decode_move(const uint8_t *code, size_t bytes, uint64_t address, struct sf_insn *insn) {
  return decode_constant(code, bytes, insn) ? 0 : decode(code, bytes, address, kMove, insn);
}

int sf_decode_flow(const uint8_t *code, size_t bytes, uint64_t address, struct sf_insn *insn) {
  return decode(code, bytes, address, kFlow, insn);
}
