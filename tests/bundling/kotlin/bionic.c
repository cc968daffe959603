/* What onnxruntime's library for Java asks of Android's C library, from this machine's. */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Other names of the same: by their own they would call themselves. */
void *__libc_malloc(size_t size);
void *__libc_realloc(void *old, size_t size);
void __libc_free(void *old);

#define AS(name) __asm__(".symver as_" #name "," #name "@@LIBC");
AS(malloc) void *as_malloc(size_t size) { return __libc_malloc(size); }
AS(realloc) void *as_realloc(void *old, size_t size) { return __libc_realloc(old, size); }
AS(free) void as_free(void *old) { __libc_free(old); }
AS(memcpy) void *as_memcpy(void *to, const void *from, size_t size) { return memmove(to, from, size); }
AS(strlen) size_t as_strlen(const char *text) { return strnlen(text, SIZE_MAX); }
AS(dlclose) int as_dlclose(void *handle) { return 0; }
AS(__stack_chk_fail) void as___stack_chk_fail(void) { abort(); }
AS(__cxa_atexit) int as___cxa_atexit(void (*done)(void *), void *what, void *whose) { return 0; }
AS(__cxa_finalize) void as___cxa_finalize(void *whose) {}
AS(__register_atfork) int as___register_atfork(void (*a)(void), void (*b)(void), void (*c)(void), void *d) { return 0; }

/* The list of what an Android library has done at the end is written in another way: leave before it is read. */
static void leave(int status, void *nothing) { _exit(status); }
__attribute__((constructor)) static void begin(void) { on_exit(leave, NULL); }
