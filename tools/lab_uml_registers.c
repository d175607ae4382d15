/* Preloaded into user-mode Linux where the processor has more registers than it makes room for (AMX).
 *
 * It keeps the extended registers of a process in a buffer of its own size, and sets them from there by
 * PTRACE_SETREGSET. The kernel takes the processor's whole area or answers EFAULT (xstateregs_set in
 * arch/x86/kernel/fpu/regset.c). So what it has is laid over the area as the process has it, and all is set.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <elf.h>
#include <stdarg.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/types.h>
#include <sys/uio.h>

/* One thread of user-mode Linux traces all its processes, so one area does. AMX alone needs 8 KiB. */
static unsigned char area[1 << 16];

/* <sys/ptrace.h> has the arguments variable; all callers pass these. */
typedef long (*ptrace_function)(enum __ptrace_request, pid_t, void *, void *);

static long set_registers(ptrace_function kernel, pid_t process, void *set, const struct iovec *given)
{
	struct iovec whole = { .iov_base = area, .iov_len = sizeof area };

	if (kernel(PTRACE_GETREGSET, process, set, &whole) != 0 || given->iov_len >= whole.iov_len)
		return kernel(PTRACE_SETREGSET, process, set, (void *)given);
	memcpy(area, given->iov_base, given->iov_len);
	return kernel(PTRACE_SETREGSET, process, set, &whole);
}

long ptrace(enum __ptrace_request request, ...)
{
	static ptrace_function kernel;
	va_list rest;

	va_start(rest, request);
	pid_t process = va_arg(rest, pid_t);
	void *address = va_arg(rest, void *);
	void *data = va_arg(rest, void *);
	va_end(rest);

	if (!kernel)
		kernel = (ptrace_function)dlsym(RTLD_NEXT, "ptrace");
	if (request == PTRACE_SETREGSET && address == (void *)NT_X86_XSTATE)
		return set_registers(kernel, process, address, data);
	return kernel(request, process, address, data);
}
