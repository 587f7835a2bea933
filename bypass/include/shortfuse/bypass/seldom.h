/* For large variables of the preloaded library that the start of a process does not touch, or only the beginning of.
 * The linker sorts the names of sections (--sort-section=name): these lie behind the others, so that those are on two
 * pages and not on seven, each of which would cost every process about a microsecond. */
#ifndef SHORTFUSE_BYPASS_SELDOM_H
#define SHORTFUSE_BYPASS_SELDOM_H

#define SF_SELDOM __attribute__((section(".bss.seldom")))

#endif
