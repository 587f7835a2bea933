// The codes of refusals.
#include "refusals.h"

namespace shortfuse::vm {
namespace {

constexpr auto kUnsafe = RefusalCategory::Unsafe;
constexpr auto kNotProved = RefusalCategory::NotProved;
constexpr auto kNotSupported = RefusalCategory::NotSupported;

constexpr RefusalCode kCodes[] = {
    // ---- files and objects
    {"file-unreadable", kNotSupported, "the file cannot be read", ""},
    {"elf-malformed", kNotSupported, "not an eBPF object as clang writes them",
     "compile with clang -target bpf -O2 -g"},
    {"elf-too-large", kNotSupported, "the object is larger than 16 MiB", ""},
    {"sfi-malformed", kNotSupported, "not a precompiled policy, or a damaged one",
     "make it anew: shortfuse policy aot"},
    {"sfi-version", kNotSupported, "precompiled by another version", "make it anew: shortfuse policy aot"},
    {"btf-missing", kNotSupported, "no type information", "compile with -g"},
    {"btf-malformed", kNotSupported, "type information that contradicts itself", "compile with -g, and do not strip"},
    {"no-programs", kNotSupported, "nothing to attach", "put a function into a section such as SEC(\"fuse/read\")"},
    {"section-missing", kNotSupported, "no program in the section asked for", ""},
    {"section-unknown", kNotSupported, "a section that names no operation", "take one of those listed"},
    {"section-unsupported", kNotSupported, "a section that cannot be linked", ""},
    {"program-too-large", kNotSupported, "more instructions or functions than a program may have", "split it"},
    {"too-many-programs", kNotSupported, "more programs than a chain may have", ""},
    {"too-many-maps", kNotSupported, "more maps than a chain may have", ""},
    {"data-relocation", kNotSupported, "data that holds an address",
     "fill the variable in at run time, or use an index instead of an address"},
    {"data-too-large", kNotSupported, "more global data than there may be", "a map"},
    {"call-unsupported", kNotSupported, "a call of something that is no function of the object", ""},
    {"helper-unknown", kNotSupported, "a helper of the kernel that does not exist here", "use one of those listed"},
    {"extern-unknown", kNotSupported, "an external function that does not exist here", "use one of those listed"},
    {"extern-type", kNotSupported, "an external function declared otherwise than it is",
     "include shortfuse/policy.h instead of declaring it"},
    {"extern-untyped", kNotSupported, "an external symbol without a type", "compile with -g"},
    {"context-type", kNotSupported, "a program whose argument is another side's context",
     "take the context that policy.h names for the section"},
    {"setting-malformed", kNotSupported, "a value that does not fit its variable", ""},
    {"setting-unknown", kNotSupported, "a variable that no object has", "use one of those listed"},
    {"core-malformed", kNotSupported, "CO-RE relocations that contradict themselves", ""},
    // ---- maps
    {"map-malformed", kNotSupported, "a map declaration that cannot be understood",
     "declare it with __uint(type, ...), __uint(max_entries, ...), __type(key, ...) and __type(value, ...)"},
    {"map-type-unsupported", kNotSupported, "a kind of map that does not exist here", "use one of those listed"},
    {"map-size", kNotSupported, "a map that cannot be made so large", "fewer or smaller entries"},
    {"map-contents", kNotSupported, "initial contents that do not fit their map", ""},
    // ---- making images
    {"no-memory", kNotSupported, "no memory", ""},
    {"image-memory", kNotSupported, "no memory for the image", ""},
    {"lowering-failed", kNotSupported, "no machine code could be made", ""},
    // ---- the shape of a program
    {"verify-insn-malformed", kNotSupported, "an instruction that does not exist", "compile with -mcpu=v3 or v4"},
    {"verify-jump-out-of-range", kUnsafe, "a jump out of its function", ""},
    {"verify-call-out-of-range", kUnsafe, "a call of something that is not a function", ""},
    {"verify-falls-off", kUnsafe, "a function that can run past its end", ""},
    {"verify-unreachable", kNotProved, "instructions that nothing reaches", "remove them; clang -O2 does"},
    // ---- what it does
    {"verify-uninitialised", kUnsafe, "a register read that was not set",
     "give the variable a value where it is declared"},
    {"verify-stack-uninitialised", kUnsafe, "stack read that was not written", "initialise the variable: = {} or = 0"},
    {"verify-frame-pointer", kUnsafe, "r10 changed", ""},
    {"verify-return-value", kUnsafe, "no number as the result",
     "return SF_PASS, SF_SERVED or a negative errno on every path"},
    {"verify-context-bounds", kUnsafe, "a read outside of the context", "read the context's fields by their names"},
    {"verify-context-write", kUnsafe, "a write to the context", "copy the field to a variable of your own"},
    {"verify-map-bounds", kNotProved, "an access outside of a map value or record",
     "compare the index with the size before using it: if (i >= N) return SF_PASS;"},
    {"verify-stack-bounds", kNotProved, "an access outside of the stack",
     "compare the index with the array's size before using it"},
    {"verify-stack-total", kUnsafe, "functions that need more than 512 bytes of stack together",
     "smaller local arrays, or a per-CPU map"},
    {"verify-null-check", kNotProved, "something that may be NULL is used", "if (!p) return SF_PASS; before"},
    {"verify-not-an-address", kUnsafe, "a number used as an address",
     "use an address that a map, the stack or the context gave"},
    {"verify-pointer-arithmetic", kNotProved, "an address calculated with in a way that cannot be followed",
     "bound the number before it is added: if (i >= N) return SF_PASS;"},
    {"verify-pointer-comparison", kNotProved, "an address compared with something other than NULL",
     "compare indexes instead"},
    {"verify-pointer-leak", kUnsafe, "an address stored or passed where it could be read as a number",
     "keep addresses in variables; store indexes"},
    {"verify-write-read-only", kUnsafe, "a write to constants", "remove const from the variable"},
    {"verify-write-in-application", kNotSupported, "a shared map written by a program that runs in the application",
     "a map of a per-CPU kind or a ring buffer, or do it in fuse/ or fuse_exit/"},
    {"verify-alignment", kNotProved, "an atomic operation on an address that may be misaligned", "align the variable"},
    // ---- what it calls
    {"verify-call-not-allowed", kNotSupported, "a function called where it does not make sense",
     "attach the program elsewhere"},
    {"verify-call-address", kUnsafe, "a call of something that is not a function of the program", ""},
    {"verify-call-depth", kNotSupported, "more than 8 functions in each other, or recursion",
     "a loop, or fewer levels"},
    {"verify-tail-call-depth", kNotSupported, "a tail call in a sub-program", "make it in the program itself"},
    {"verify-argument", kNotProved, "an argument that the function does not take", ""},
    {"verify-map-kind", kNotSupported, "a map function used on a kind of map that it is not for",
     "the functions of that kind"},
    {"verify-core-missing", kNotSupported, "something used that this build does not have", ""},
    {"verify-reference-leak", kUnsafe, "a reserved record that is not given back",
     "bpf_ringbuf_submit() or bpf_ringbuf_discard() on every path"},
    // ---- whether it ends
    {"verify-endless-loop", kNotProved, "a loop that cannot be shown to end",
     "count the rounds: for (u32 i = 0; i < MAX && ...; i++)"},
    {"verify-too-complex", kNotProved, "too many paths, or loops of too many rounds",
     "a constant bound for each loop; a function of its own (noinline) for what branches much"},
};

void add_line(std::string *text, const std::string &label, const std::string &value) {
  if (!value.empty()) *text += (text->empty() ? "  " : "\n  ") + label + value;
}

std::string place(const std::string &file, uint32_t line) { return file + ":" + std::to_string(line); }

}  // namespace

const char *category_name(RefusalCategory category) {
  switch (category) {
    case RefusalCategory::Unsafe: return "unsafe";
    case RefusalCategory::NotProved: return "could not prove";
    case RefusalCategory::None: case RefusalCategory::NotSupported: return "not supported here";
  }
  return "?";
}

std::span<const RefusalCode> refusal_codes() { return kCodes; }

const RefusalCode *find_refusal_code(const std::string &code) {
  for (const RefusalCode &c : kCodes) {
    if (code == c.code) return &c;
  }
  return nullptr;
}

void complete(Refusal *r) {
  if (r->category != RefusalCategory::None && !r->detail.empty()) return;
  const RefusalCode *code = find_refusal_code(r->code);
  if (r->category == RefusalCategory::None) r->category = code ? code->category : RefusalCategory::NotSupported;
  if (r->suggestion.empty() && code) r->suggestion = code->suggestion;
  if (r->reason.empty()) r->reason = r->text;
  std::string text = r->detail;
  if (!r->file.empty()) add_line(&text, "source: ", place(r->file, r->line) + ": " + r->source);
  if (r->insn >= 0) {
    add_line(&text, "instruction ", std::to_string(r->insn) + (r->insn_text.empty() ? "" : ": ") + r->insn_text);
  }
  add_line(&text, "needed: ", r->needed);
  add_line(&text, "known: ", r->known);
  if (!r->path.empty()) text += "\n  how it comes there:";
  for (const RefusalStep &step : r->path) {
    std::string where = "instruction " + std::to_string(step.insn);
    if (!step.file.empty()) where = place(step.file, step.line) + ": " + step.source;
    add_line(&text, "  ", where + "  (" + step.what + ")");
  }
  add_line(&text, "category: ", category_name(r->category));
  add_line(&text, "suggestion: ", r->suggestion);
  r->detail = text;
}

std::string refusal_table() {
  std::string text =
      "# Why policies are refused\n\n"
      "`shortfuse policy check` shows a code with every refusal; codes do not change. Categories: *unsafe*, the\n"
      "program does what none may; *could not prove*, it may be right, but that could not be shown (a refusal may be\n"
      "of another category than its code where it knows better); *not supported here*. Made from `src/refusals.cc`\n"
      "(`SHORTFUSE_RENEW=1 vm_refusals_test`).\n\n"
      "| code | category | what it is about | what helps |\n|---|---|---|---|\n";
  for (const RefusalCode &c : kCodes) {
    const std::string category = category_name(c.category);
    text += std::string("| `") + c.code + "` | " + category + " | " + c.meaning + " | " + c.suggestion + " |\n";
  }
  return text;
}

}  // namespace shortfuse::vm
