// The verifier's inside: one walk over all paths of one program. Split over verifier.cc (paths, states),
// verify_crowds.cc (places where many paths meet), verify_calls.cc (sub-programs, callbacks), verify_loops.cc (loops
// as a whole), verify_rounds.cc (how many rounds there may be), verify_findings.cc (what paths have shown),
// verify_values.cc (arithmetic, branches), verify_memory.cc and verify_host.cc (host functions).
#pragma once
#include <map>
#include <optional>
#include <utility>
#include <vector>

#include "isa/host_functions.h"
#include "verify/flow.h"
#include "verify/join.h"
#include "verify/state.h"
#include "verify/verifier.h"

namespace shortfuse::vm {

inline constexpr uint32_t kArrayMap = 2;  // BPF_MAP_TYPE_ARRAY
inline constexpr uint32_t kBufferBytesMax = 1u << 20;
inline constexpr const char *kOpenBranches =
    "the program has too many branches that are still open; a loop may have too many rounds";

inline uint64_t multiply_saturated(uint64_t a, uint64_t b) {
  uint64_t product;
  return __builtin_mul_overflow(a, b, &product) ? ~0ull : product;
}

// A place whose change in one round of a loop is being watched.
struct Watched {
  PlaceKey key;
  uint32_t id;          // pinned: what it held at the header is X + delta
  uint64_t delta;
  bool modulo32;
  Scalar value;         // at the header, in all rounds
  Type type;
  Reg outer;            // how it is related to what the loop around pinned, when the loop was first met
  bool stepped = true;  // on every way round it moved by something in [least, most]
  int64_t least = 0, most = 0;
};

// What a number that a loop pinned is compared with, moved to where the pinned number is.
struct Compared {
  uint32_t pc;
  uint64_t delta;
  bool wide;
  Scalar with;
};

class PathWalker {
 public:
  PathWalker(LinkedProgram *program, const std::vector<Policy::Map> &maps, const std::string &object, Flow flow);

  std::expected<Verified, Refusal> run(uint64_t *steps_left);

 private:
  enum class Next { Continue, PathEnds, Waits, Refused };
  enum class Use { Read, Write };
  // Instructions [first, last] that a path took one after the other, and what was before.
  struct Piece { uint32_t first, last; int32_t before; };
  struct Pending {
    State state;
    uint32_t pc;
    int32_t parent;
    int32_t before;        // in pieces_
    uint32_t piece_start;
  };
  // A state that was walked on from. It is finished when no branch is open, and that counts for everybody once
  // `depends` is finished: before, only in the rounds of the loop or callback about which that was guessed.
  struct Seen {
    State state;
    int32_t parent;
    uint32_t branches;
    uint32_t pc;         // kNoPlace: not to be joined
    int32_t depends;     // the guess (Seen) of which it was part; -1: none
    bool guess = false;  // about all rounds of a loop or of a callback
    std::vector<int32_t> more_parents = {};  // of a state that several paths were joined into
  };
  static constexpr uint32_t kNoPlace = ~0u;
  static constexpr uint8_t kWayOn = 1, kWayTaken = 2;
  struct Place { std::vector<uint32_t> seen; uint32_t visits = 0; };

  // Where a path is, in the order in which a program runs (verify_crowds.cc).
  using Position = std::vector<uint32_t>;
  // Those that meet at one position,
  struct Crowd {
    uint32_t walked_apart = 0, walked_together = 0;
    int32_t together = -1;
    std::vector<uint32_t> kinds;  // as tell_apart()
  };
  // and those of them that wait to be walked on as one.
  struct Waiting {
    State state;
    uint32_t pc;
    std::vector<int32_t> parents;
    int32_t before;
    uint32_t piece_start;
  };

  // Rounds of a nest (verify_rounds.cc): walked in each owner's, and proved each time that it is met.
  struct NestRounds {
    struct Walked { uint32_t owner, region = 0; uint64_t in_region = 0, most = 0, sum = 0; };
    std::vector<Walked> walked;
    uint64_t judged = 0, judged_sum = 0;
    bool callback = false, joined_others = false;
  };
  struct NestPlace { uint32_t nest, owner; };
  static constexpr uint32_t kNoLoop = ~0u;

  // What the paths have shown so far (verify_findings.cc). What an attempt showed is taken back with it.
  struct Findings {
    std::vector<bool> visited;
    std::vector<uint8_t> ways;          // of a conditional jump: kWayOn, kWayTaken, or both
    std::vector<uint32_t> frame_bytes;  // per function
    // The pc of a call and a function that it enters, ascending.
    std::vector<std::pair<uint32_t, uint32_t>> called_from;
    std::vector<NestRounds> rounds;     // per nest
  };
  // How one of them was before a path in an attempt changed it.
  struct Undo {
    enum class What : uint8_t { Visited, Ways, FrameBytes, Call, Rounds } what;
    uint32_t of, was;
  };
  // Everything that an attempt to judge a loop may have to undo.
  struct Mark {
    State state;
    uint32_t pc;
    int32_t parent;
    size_t pending;
    uint64_t pending_bytes, head_bytes;
    size_t seen, pieces;
    int32_t before;
    uint32_t piece_start;
    size_t undo;
    uint32_t region;
  };
  // How often a place was widened, and what it could have been widened to a few times before.
  struct Climb { PlaceKey key; uint32_t count; std::vector<uint64_t> rungs; };
  // One attempt to judge a loop as a whole.
  struct Attempt {
    uint32_t loop, header;
    size_t frames;                            // active at the header
    State entry;                              // how the loop was first met
    State bare;                               // what is believed to hold in every round
    uint32_t candidate;                       // how many guesses there were before
    int32_t invariant;                        // the same as a Seen
    PinnedIds::Range pinned;
    std::vector<Watched> watched;
    std::vector<std::vector<Compared>> compared;  // per pinned id: with what
    std::vector<std::vector<int8_t>> ways;    // per way round: the direction in which each watched place moved
    std::vector<Pending> exits;               // paths that left the loop
    std::optional<State> arrived;             // all ways back to the header
    uint32_t arrivals;
    std::vector<Climb> climbs;
    bool counted_from_entry;                  // something was concluded from how many rounds there can be
    bool joined_others;                       // a path joined one that is finished
    uint64_t rounds;                          // at most, behind the first
    uint64_t nest_rounds, inner_rounds;       // times those of the loops inside; of the loops inside
    void start(State bare, uint32_t number);
  };
  // Of an id that a loop pinned: how it is related to what the loop around pinned.
  struct Claim { Reg outer; uint64_t delta; };
  enum class Judgement { Holds, Widened, Failed, Endless };
  struct LoopRecord {
    bool proved = false, walk_rounds = false;
    bool without_counter = false;  // what holds in every round was found, but nothing that bounds their number
    uint32_t failures = 0;
    std::vector<std::pair<PlaceKey, Scalar>> hints;  // what held last time
  };

  // ---- paths (verifier.cc)
  void begin();
  bool walk_all();
  bool walk_more_closely();
  bool walk_pending(size_t until);
  bool walk_path(bool met = false);
  Next step(const Insn &in);
  Next meet();
  bool counts_as_finished(const Seen &seen) const;
  bool is_open_guess(int32_t index) const;
  int32_t innermost_guess() const;
  bool in_same_rounds(const State &other) const;
  Next endless_loop();
  void save_state();
  void path_ended() { finish(parent_); }
  void finish(int32_t parent);
  void charge(uint64_t bytes);
  bool push_path(State state, uint32_t pc);
  std::vector<uint16_t> live_registers() const;
  void drop_fields();
  bool is_on_this_path(int32_t seen);

  // ---- crowds (verify_crowds.cc)
  Position position() const;
  uint32_t kind_of_state() const;
  void tell_apart(Position *here, Crowd *crowd) const;
  Next wait_in_crowd();
  bool let_wait(const Position &here, Crowd *crowd);
  bool walk_crowd();

  // ---- calls (verify_calls.cc)
  Next call_function(uint32_t target);
  Next call_address(const Insn &in);
  Next leave_function();
  bool push_frame(Frame callee, uint32_t target);
  Next start_rounds(Role role, uint32_t target);
  uint64_t rounds_of_body(const Frame &body) const;
  uint64_t callback_rounds(size_t frame) const;
  void note_callback(const Frame &body);
  bool next_head(Frame body, uint32_t target);
  Next end_round();
  bool nothing_reserved(const char *what);
  bool check_stack();
  void complete_code();

  // ---- loops (verify_loops.cc)
  void enter_round(uint32_t loop);
  Next at_loop(uint32_t loop);
  bool may_judge(uint32_t loop) const;
  void leave_loops();
  Next judge_loop(uint32_t loop);
  void rewind(const Mark &mark);
  void pin(Attempt *t, State *state);
  bool walk_round(Attempt *t, int32_t parent);
  bool outside_of_round() const;
  bool leave_round();
  bool is_back_at_header() const;
  Next arrive_back();
  State without_pins(const State &state);
  void note_bound(size_t trial, const Reg &of, const Scalar &bound, bool wide);
  std::vector<Claim> outer_claims(Attempt *t) const;
  void relate_to_outer(const Attempt &t, const std::vector<Claim> &claims, State *state) const;
  void forget_seen(size_t from);
  void note_comparison(const Insn &in, const Reg &a, const Reg &b);
  std::vector<uint64_t> rungs_of(const Attempt &t, const Watched &w) const;
  uint64_t rounds_of(Attempt *t, bool from_anywhere) const;
  Judgement judge(Attempt *t, State *candidate);
  Judgement settle(Attempt *t, State next, const State &back, uint64_t rounds, State *candidate);
  static Climb &climb_of(Attempt *t, PlaceKey key);
  const Scalar *hint_for(uint32_t loop, PlaceKey key) const;
  Next accept_loop(Attempt *t);

  // ---- findings (verify_findings.cc)
  void note_visited();
  void note_ways(uint8_t ways);
  void note_call(uint32_t function);
  void note_frame_bytes(uint32_t function, uint32_t bytes);
  NestRounds &rounds_to_change(uint32_t nest);
  void keep(Undo::What what, uint32_t of, uint32_t was);
  void take_back(size_t until);

  // ---- rounds (verify_rounds.cc)
  uint32_t nest_in(uint32_t outer, uint32_t label);
  NestPlace nest_here(uint32_t loop);
  void note_walked_round(uint32_t loop);
  void note_judged_rounds(uint32_t nest, uint64_t rounds, bool joined_others);
  void note_callback_rounds(const Frame &body);
  uint64_t most_rounds();

  // ---- values (verify_values.cc)
  bool alu(const Insn &in);
  void relate_sum(const Insn &in, const Reg &of, const Scalar &more, Reg *result);
  bool alu_pointer(const Insn &in, const Reg &a, const Reg &b);
  bool endian(const Insn &in);
  bool load_imm64(const Insn &in);
  Next jump(const Insn &in);
  Next jump_on_pointer(const Insn &in, const Reg &a, const Reg &b);
  Next split(State taken);
  Next go_one_way(bool taken);
  void learn(State *state, const Reg &of);
  void decide_null(State *state, uint32_t id, bool null);
  bool need_readable(unsigned r);
  bool need_writable(unsigned r);
  Reg reg(unsigned r) const;
  void set(unsigned r, const Reg &value) { state_.top().reg[r] = value; }
  Reg second_operand(const Insn &in) const;

  // ---- memory (verify_memory.cc)
  bool load(const Insn &in);
  Reg read_field(int32_t off, uint32_t bytes);
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
  bool writes_callers_memory(const HostFunction &f) const;
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

  // ---- how a path came to where it is (verify_explain.cc)
  int32_t add_piece(uint32_t last);
  void end_piece(uint32_t last);
  std::vector<uint32_t> path_backwards() const;
  void explain(Refusal *r, int about) const;

  // ---- refusing (verifier.cc)
  bool refuse(const char *code, const std::string &sentence, const std::string &needed = "",
              const std::string &known = "");
  bool refuse_reg(const char *code, unsigned r, const std::string &sentence, const std::string &needed,
                  const std::string &known = "");
  bool refuse_limit(const std::string &sentence, const std::string &needed);
  std::string describe(const Reg &r) const;
  std::string map_name(uint32_t map) const;
  uint32_t function_of(uint32_t frame) const;

  LinkedProgram &program_;
  const std::vector<Policy::Map> &maps_;
  const std::string &object_;
  const Flow flow_;
  const bool writes_shared_maps_;
  const uint32_t context_bytes_;
  const uint64_t steps_max_;  // in one pass

  State state_;           // of the path being walked
  uint32_t pc_ = 0;
  int32_t parent_ = -1;   // the last saved state on it
  uint32_t insns_since_save_ = 0, jumps_since_save_ = 0;
  std::vector<Pending> pending_;
  std::map<Position, Waiting> waiting_;
  std::map<Position, Crowd> crowds_;
  uint32_t region_ = 0, regions_ = 0;  // 0, or which of the rounds that were walked for all
  bool joins_crowds_ = true, joined_ = false;
  std::vector<Seen> seen_;
  std::vector<Place> places_;
  uint64_t seen_bytes_ = 0, pending_bytes_ = 0;
  uint64_t steps_ = 0, steps_limit_ = 0, charged_bytes_ = 0;
  uint32_t next_id_ = 1;
  uint32_t jump_target_ = 0;
  std::vector<Piece> pieces_;
  int32_t before_ = -1;        // the last whole piece of the path being walked
  uint32_t piece_start_ = 0;
  bool surely_ = false;        // what is being refused is wrong whatever the numbers are
  int about_ = -1;             // the register of which the refusal being made speaks
  uint64_t head_bytes_ = 0;        // of states before rounds of callbacks
  uint32_t reserved_bytes_ = 0;    // asked for by the call being checked
  Findings findings_;
  std::vector<Undo> undo_;                 // while loops are being judged
  std::vector<NestRounds> rounds_before_;  // of those that are of Rounds
  uint32_t stack_bytes_ = 0;

  std::vector<LoopRecord> loops_;      // as LoopNest::loops
  std::vector<Attempt *> attempts_;        // loops being judged, the outermost first
  PinnedIds pinned_;                   // by them
  uint64_t attempt_steps_ = 0, attempt_limit_ = 0;
  bool judged_ = false;                // some loop was accepted as a whole
  std::map<std::pair<uint32_t, uint32_t>, uint32_t> nests_;  // in which nest, and what: its number, from 1
  uint64_t most_rounds_ = 0;           // of one that was not, because these are too many,
  uint32_t most_rounds_pc_ = 0;        // and where
  bool walk_all_rounds_ = false;       // no loop is judged as a whole
  uint32_t passes_ = 0;
  uint64_t spent_ = 0, spent_in_passes_ = 0;
  Refusal refusal_;
};

}  // namespace shortfuse::vm
