/*
 * Lets User Mode Linux kernels before 6.15 run on hosts whose extended processor state is larger
 * than the 2,696 bytes that they reserve for it (AMX: tile data of 8 KiB).
 *
 * Such a kernel sets a process's registers with PTRACE_SETREGSET/NT_X86_XSTATE and its short
 * buffer; the host wants the full size and says EFAULT. This library, in LD_PRELOAD, repeats the
 * call with a buffer of the host's size: the caller's bytes, then zeros, and a header that claims
 * only the features which the caller's bytes hold. Layout: Intel SDM volume 1, section 13.4.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum {
	PEEKTEXT = 1, PEEKDATA = 2, PEEKUSER = 3,
	GETREGSET = 0x4204, SETREGSET = 0x4205,
	NT_X86_XSTATE = 0x202,
	XSTATE_BV_OFFSET = 512,
	KNOWN_FEATURES = 0x2ff, /* x87 to PKRU; what a 2,696-byte area can hold */
};

static unsigned char area[1 << 16];

static long set_full_state(long pid, const struct iovec *given)
{
	struct iovec full = { area, sizeof area };
	uint64_t features;
	size_t n;

	if (syscall(SYS_ptrace, (long)GETREGSET, pid, (long)NT_X86_XSTATE, &full) < 0)
		return -1;
	n = given->iov_len < full.iov_len ? given->iov_len : full.iov_len;
	memset(area, 0, full.iov_len);
	memcpy(area, given->iov_base, n);
	memcpy(&features, area + XSTATE_BV_OFFSET, sizeof features);
	features &= KNOWN_FEATURES;
	memcpy(area + XSTATE_BV_OFFSET, &features, sizeof features);
	return syscall(SYS_ptrace, (long)SETREGSET, pid, (long)NT_X86_XSTATE, &full);
}

long ptrace(int request, ...)
{
	va_list args;
	long pid, r, word;
	void *addr, *data;

	va_start(args, request);
	pid = va_arg(args, int);
	addr = va_arg(args, void *);
	data = va_arg(args, void *);
	va_end(args);

	if (request >= PEEKTEXT && request <= PEEKUSER) {
		/* The system call stores the word, the library function returns it: ptrace(2). */
		r = syscall(SYS_ptrace, (long)request, pid, addr, &word);
		if (r < 0)
			return -1;
		errno = 0;
		return word;
	}
	r = syscall(SYS_ptrace, (long)request, pid, addr, data);
	if (r < 0 && errno == EFAULT && request == SETREGSET && (long)addr == NT_X86_XSTATE)
		return set_full_state(pid, data);
	return r;
}
