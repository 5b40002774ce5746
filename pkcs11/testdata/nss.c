// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

// A PKCS #11 module for the tests: NSS's softoken, which wants to be told at its start, in a way of its own,
// where its keys are. $NSS_PARAMS says it.

#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

typedef unsigned long (*function)(void *);

struct list {
	unsigned char version[sizeof(void *)]; // and padding
	function functions[68];                // C_Initialize is the first; PKCS #11 2.40 has 68
};

struct args { // as NSS has it, with one member more than PKCS #11
	void *mutexes[4];
	unsigned long flags;
	const char *params;
	void *reserved;
};

static struct list list;
static function initialize;

static unsigned long start(void *ignored) {
	struct args args;
	memset(&args, 0, sizeof args);
	args.flags = 2; // CKF_OS_LOCKING_OK
	args.params = getenv("NSS_PARAMS");
	return initialize(&args);
}

unsigned long C_GetFunctionList(void **out) {
	if (initialize == NULL) {
		void *library = dlopen("libsoftokn3.so", RTLD_NOW | RTLD_LOCAL);
		unsigned long (*get)(void **) = library ? dlsym(library, "C_GetFunctionList") : NULL;
		struct list *theirs;
		if (get == NULL || get((void **)&theirs) != 0)
			return 5; // CKR_GENERAL_ERROR
		list = *theirs;
		initialize = list.functions[0];
		list.functions[0] = start;
	}
	*out = &list;
	return 0;
}
