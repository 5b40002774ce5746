// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

// A PKCS #11 module that stands in front of another one, for tests. It counts the calls of each function in a
// file that the test has mapped too, and does to the module behind it what the test writes there.
//
//   SHIM_MODULE   the module behind it
//   SHIM_CONTROL  the file
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define CK_PTR *
#define NULL_PTR 0
#define CK_DECLARE_FUNCTION(type, fn) type fn
#define CK_DECLARE_FUNCTION_POINTER(type, fn) type (*fn)
#define CK_CALLBACK_FUNCTION(type, fn) type (*fn)
#include "pkcs11.h"

// The numbers of the functions: i_C_Initialize is 0.
enum {
#define CK_PKCS11_FUNCTION_INFO(fn) i_##fn,
#include "pkcs11f.h"
#undef CK_PKCS11_FUNCTION_INFO
	functions
};

// What is in the file.
struct control {
	_Atomic uint32_t logout;    // 1: log out before the next operation
	_Atomic uint32_t close;     // 1: close all sessions before the next operation
	_Atomic uint32_t fail;      // what every function but the first ones returns; 0: nothing special
	_Atomic uint32_t hang;      // the number of a function that does not return for so long, plus 1
	struct {
		char name[32];
		_Atomic uint64_t calls;
	} of[functions];
};

static struct control *control;
static CK_FUNCTION_LIST list, *behind;
static _Atomic CK_SLOT_ID slot;
// What is done to all sessions is done between two calls, as a token does it.
static pthread_rwlock_t calls = PTHREAD_RWLOCK_INITIALIZER;

// All arguments are pointers or integers of at most that size, and there are at most 8. Where a function has fewer,
// it does not look at the others.
typedef unsigned long arg;
typedef CK_RV (*function)(arg, arg, arg, arg, arg, arg, arg, arg);

// begins tells whether a function begins an operation of a session.
static int begins(int i)
{
	const char *name = control->of[i].name;
	return strcmp(name + strlen(name) - 4, "Init") == 0;
}

static void upset(CK_SESSION_HANDLE session)
{
	if (atomic_exchange(&control->logout, 0)) {
		pthread_rwlock_wrlock(&calls);
		behind->C_Logout(session);
		pthread_rwlock_unlock(&calls);
	}
	if (atomic_exchange(&control->close, 0)) {
		pthread_rwlock_wrlock(&calls);
		behind->C_CloseAllSessions(slot);
		pthread_rwlock_unlock(&calls);
	}
}

static CK_RV call(int i, function f, arg a, arg b, arg c, arg d, arg e, arg g, arg h, arg j)
{
	CK_RV result;
	atomic_fetch_add(&control->of[i].calls, 1);
	while (control->hang == (uint32_t)i + 1)
		usleep(10000);
	if (i >= i_C_GetSlotList && control->fail)
		return control->fail;
	if (i == i_C_OpenSession)
		slot = a;
	if (begins(i))
		upset(a);
	pthread_rwlock_rdlock(&calls);
	result = f(a, b, c, d, e, g, h, j);
	pthread_rwlock_unlock(&calls);
	return result;
}

#define CK_PKCS11_FUNCTION_INFO(fn) \
	static CK_RV shim_##fn(arg a, arg b, arg c, arg d, arg e, arg f, arg g, arg h) \
	{ \
		return call(i_##fn, (function)(void *)behind->fn, a, b, c, d, e, f, g, h); \
	}
#include "pkcs11f.h"
#undef CK_PKCS11_FUNCTION_INFO

// start maps the file and loads the module behind.
static CK_RV start(void)
{
	CK_C_GetFunctionList get = 0;
	void *module = dlopen(getenv("SHIM_MODULE"), RTLD_NOW);
	int fd = open(getenv("SHIM_CONTROL"), O_RDWR | O_CLOEXEC);
	if (module)
		get = (CK_C_GetFunctionList)dlsym(module, "C_GetFunctionList");
	if (!get || fd < 0 || get(&behind) != CKR_OK)
		return CKR_GENERAL_ERROR;
	control = mmap(0, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	if (control == MAP_FAILED)
		return CKR_HOST_MEMORY;
	list.version = behind->version;
#define CK_PKCS11_FUNCTION_INFO(fn) \
	strcpy(control->of[i_##fn].name, #fn); \
	*(void **)&list.fn = (void *)shim_##fn;
#include "pkcs11f.h"
#undef CK_PKCS11_FUNCTION_INFO
	return CKR_OK;
}

CK_RV C_GetFunctionList(CK_FUNCTION_LIST_PTR_PTR result)
{
	CK_RV error = behind ? CKR_OK : start();
	*result = &list;
	return error;
}
