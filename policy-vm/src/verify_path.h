// The verifier's inside: one walk over all paths of one program. Split over verifier.cc (paths, states),
// verify_calls.cc (sub-programs, callbacks), verify_values.cc (arithmetic, branches), verify_memory.cc and
// verify_host.cc (host functions).
#pragma once
#include <map>
#include <optional>
#include <set>

#include "flow.h"
#include "host_functions.h"
#include "state.h"
#include "verifier.h"

namespace shortfuse::vm {

inline constexpr uint32_t kArrayMap = 2;  // BPF_MAP_TYPE_ARRAY
inline constexpr uint32_t kBufferBytesMax = 1u << 20;

class PathWalker {
 public:
  PathWalker(LinkedProgram *program, const std::vector<Policy::Map> &maps, const std::string &object, Flow flow);

  std::expected<Verified, Refusal> run(uint64_t *steps_left);

 private:
  enum class Next { Continue, PathEnds, Refused };
  enum class Use { Read, Write };
  struct Pending { State state; uint32_t pc; int32_t parent; };
  struct Seen { State state; int32_t parent; uint32_t branches; };
  struct Place { std::vector<uint32_t> seen; uint32_t visits = 0; };

  // ---- paths (verifier.cc)
  bool walk_path();
  Next step(const Insn &in);
  Next meet();
  void save_state();
  void path_ended();
  void charge(uint64_t bytes);
  bool push_path(State state, uint32_t pc);
  std::vector<uint16_t> live_registers() const;

  // ---- calls (verify_calls.cc)
  Next call_function(uint32_t target);
  Next call_address(const Insn &in);
  Next leave_function();
  bool push_frame(Frame callee, uint32_t target);
  Next start_rounds(Role role, uint32_t target);
  bool next_head(Frame body, uint32_t target);
  Next end_round();
  bool inside_body() const;
  bool nothing_reserved(const char *what);
  bool check_stack();
  void complete_code();

  // ---- values (verify_values.cc)
  bool alu(const Insn &in);
  bool alu_pointer(const Insn &in, const Reg &a, const Reg &b);
  bool endian(const Insn &in);
  bool load_imm64(const Insn &in);
  Next jump(const Insn &in);
  Next jump_on_pointer(const Insn &in, const Reg &a, const Reg &b);
  Next split(State taken);
  void learn(State *state, const Reg &of);
  void decide_null(State *state, uint32_t id, bool null);
  bool need_readable(unsigned r);
  bool need_writable(unsigned r);
  Reg reg(unsigned r) const;
  void set(unsigned r, const Reg &value) { state_.top().reg[r] = value; }
  Reg second_operand(const Insn &in) const;

  // ---- memory (verify_memory.cc)
  bool load(const Insn &in);
  bool store(const Insn &in);
  bool atomic(const Insn &in);
  bool access(unsigned r, const Reg &base, int64_t off, uint32_t bytes, Use use);
  bool access_context(unsigned r, const Scalar &at, uint32_t bytes, Use use);
  bool access_sized(unsigned r, const Scalar &at, uint32_t bytes, uint32_t size, Use use, const char *what);
  bool access_map_value(unsigned r, const Reg &base, const Scalar &at, uint32_t bytes, Use use);
  bool access_stack(unsigned r, const Reg &base, const Scalar &at, uint32_t bytes);
  bool read_stack(unsigned r, const Reg &base, const Scalar &at, uint32_t bytes, Reg *out);
  bool read_stack_bytes(unsigned r, Frame *frame, int64_t low, int64_t high);
  bool write_stack(unsigned r, const Reg &base, const Scalar &at, uint32_t bytes, const Reg &value, bool from_reg);
  Reg saved_copy(unsigned r, const Reg &value, uint32_t bytes, bool from_reg);
  bool blur_stack(unsigned r, Frame *frame, int64_t low, int64_t high);
  void mark_written(Frame *frame, int64_t low, int64_t high);
  Slot &slot_at(Frame *frame, int64_t byte);
  std::optional<uint64_t> constant_of(const Reg &base, const Scalar &at, uint32_t bytes) const;
  void touch_stack(unsigned frame, int64_t lowest);

  // ---- host functions (verify_host.cc)
  Next call_host(const Insn &in);
  std::optional<uint32_t> map_like_inner(const Policy::Map &outer) const;
  void set_result(const HostFunction &f, uint32_t map);
  bool check_map(const HostFunction &f, unsigned r);
  bool check_ring_record(unsigned r, const std::string &which);
  bool check_tail_call();
  void release(uint32_t id);
  bool check_argument(const HostFunction &f, unsigned index, uint32_t *map);
  bool check_buffer(unsigned r, const Scalar &size, Use use);
  bool check_const_string(unsigned r);
  bool check_bytes(unsigned r, uint32_t bytes);

  // ---- refusing (verifier.cc)
  bool refuse(const char *code, const std::string &sentence, const std::string &needed = "",
              const std::string &known = "");
  bool refuse_reg(const char *code, unsigned r, const std::string &sentence, const std::string &needed,
                  const std::string &known = "");
  std::string describe(const Reg &r) const;
  std::string map_name(uint32_t map) const;
  uint32_t function_of(uint32_t frame) const;

  LinkedProgram &program_;
  const std::vector<Policy::Map> &maps_;
  const std::string &object_;
  const Flow flow_;
  const bool writes_shared_maps_;
  const uint32_t context_bytes_;

  State state_;           // of the path being walked
  uint32_t pc_ = 0;
  int32_t parent_ = -1;   // the last saved state on it
  uint32_t insns_since_save_ = 0, jumps_since_save_ = 0;
  std::vector<Pending> pending_;
  std::vector<Seen> seen_;
  std::vector<Place> places_;
  uint64_t seen_bytes_ = 0, pending_bytes_ = 0;
  uint64_t steps_ = 0, steps_limit_ = 0, charged_bytes_ = 0;
  uint32_t next_id_ = 1;
  uint32_t jump_target_ = 0;
  std::vector<State> heads_;       // before rounds of callbacks
  uint64_t head_bytes_ = 0;
  uint32_t reserved_bytes_ = 0;    // asked for by the call being checked
  std::vector<bool> visited_;
  std::map<uint32_t, std::set<uint32_t>> called_from_;  // by pc of a call: the functions that it enters
  std::vector<uint32_t> frame_bytes_;  // per function
  uint32_t stack_bytes_ = 0;
  Refusal refusal_;
};

}  // namespace shortfuse::vm
