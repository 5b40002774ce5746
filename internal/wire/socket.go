// Copyright 2026 The mslkeep authors.
// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A stream is a connection. One goroutine at a time may read from it, and one may write.
type stream interface {
	io.Reader
	// write writes all of b, or, without block, as much as is taken at once.
	write(b [][]byte, block bool) (int, error)
	// shut ends the connection, and frees whoever waits. It may be called at any time and does not wait.
	shut()
	// Close gives back what is left after shut.
	Close() error
}

func newStream(conn net.Conn) stream {
	if c, ok := conn.(*net.UnixConn); ok {
		if s := newSocket(c); s != nil {
			return s
		}
	}
	return waiting{conn}
}

// A waiting is a stream that cannot be asked whether it would have to wait.
type waiting struct{ net.Conn }

func (w waiting) write(b [][]byte, block bool) (n int, err error) {
	if block {
		for i := 0; i < len(b) && err == nil; i++ {
			var m int
			m, err = w.Conn.Write(b[i])
			n += m
		}
	}
	return n, err
}

func (w waiting) shut() { w.Conn.Close() }

// A socket is a unix socket of which the runtime's poller does not know: that wakes a thread for each
// piece that arrives and for each that the peer has taken, whether or not somebody waits for it, which
// costs both processes more than all else that a small request does. A socket is watched only while
// somebody waits, and for what he waits for.
type socket struct {
	file    *os.File
	raw     syscall.RawConn
	in, out watch
	recv    transfer
	send    transfer
	nowait  bool // Read returns errWait instead of waiting
	linger  bool // Read may look again for a while before it waits
	short   int  // more than 0: waits were short of late
}

const (
	lingerTime = 100 * time.Microsecond // a wait that is not longer is short
	busyTime   = 20 * time.Microsecond  // a look that takes longer was interrupted
	maxShort   = 8

	sendBuffer = 1 << 20 // some large frames
)

// errWait means that nothing can be read or written now.
var errWait = errors.New("wire: would have to wait")

// newSocket takes conn over. If it returns nil, conn is as it was.
func newSocket(conn *net.UnixConn) *socket {
	fd, err := duplicate(conn)
	if err != nil {
		return nil
	}
	s := new(socket)
	if s.in, err = newWatch(fd); err == nil {
		s.out, err = newWatch(fd)
	}
	if err == nil {
		err = unix.SetNonblock(fd, false) // else the runtime would watch file
	}
	if err != nil {
		s.in.close()
		s.out.close()
		unix.Close(fd)
		return nil
	}
	unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, sendBuffer) // or as much as the system allows
	conn.Close()                                                        // and fd is the only one
	s.file = os.NewFile(uintptr(fd), "agent connection")
	s.raw, _ = s.file.SyscallConn()
	s.recv = transfer{raw: s.raw.Read, call: unix.SYS_RECVMSG, flags: unix.MSG_DONTWAIT}
	s.send = transfer{raw: s.raw.Write, call: unix.SYS_SENDMSG, flags: unix.MSG_DONTWAIT | unix.MSG_NOSIGNAL}
	s.recv.try, s.send.try = s.recv.do, s.send.do
	s.listen(true)
	return s
}

func duplicate(conn *net.UnixConn) (fd int, err error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return -1, err
	}
	if e := raw.Control(func(old uintptr) { fd, err = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 0) }); e != nil {
		return -1, e
	}
	return fd, err
}

// A transfer is recvmsg or sendmsg, which do not wait and so need not tell the scheduler.
type transfer struct {
	raw         func(func(fd uintptr) bool) error
	try         func(fd uintptr) bool // do
	call, flags uintptr
	header      unix.Msghdr
	pieces      [16]unix.Iovec
	n           int
	err         error
}

func (t *transfer) run() (int, error) {
	if err := t.raw(t.try); err != nil {
		return 0, err
	}
	return t.n, t.err
}

// do always returns true, so that RawConn does not wait.
func (t *transfer) do(fd uintptr) bool {
	for {
		n, _, e := syscall.RawSyscall(t.call, fd, uintptr(unsafe.Pointer(&t.header)), t.flags)
		t.n, t.err = 0, nil
		switch e {
		case 0:
			t.n = int(n)
		case unix.EINTR:
			continue
		case unix.EAGAIN:
			t.err = errWait
		default:
			t.err = e
		}
		return true
	}
}

// Read reads what is there, and waits if there is nothing.
func (s *socket) Read(b []byte) (int, error) {
	n, err := s.tryRead(b)
	if err != errWait || s.nowait {
		return n, err
	}
	return s.waitRead(b)
}

func (s *socket) waitRead(b []byte) (n int, err error) {
	start := time.Now()
	if s.linger && s.short > 0 {
		for now := start; now.Sub(start) < lingerTime; {
			yield()
			if n, err = s.tryRead(b); err != errWait {
				s.short = min(s.short+2, maxShort)
				return n, err
			}
			before := now
			if now = time.Now(); now.Sub(before) > busyTime {
				s.short = 0 // somebody else needs the processor
				break
			}
		}
	}
	if e := s.wait(func() bool { n, err = s.tryRead(b); return err != errWait }); e != nil {
		return 0, net.ErrClosed
	}
	if time.Since(start) < lingerTime {
		s.short = min(s.short+2, maxShort)
	} else {
		s.short = max(s.short-1, 0)
	}
	return n, err
}

// yield lets other processes run. The scheduler is not asked: it would wake a thread each time.
func yield() {
	syscall.RawSyscall(unix.SYS_SCHED_YIELD, 0, 0, 0)
}

func (s *socket) tryRead(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	t := &s.recv
	t.pieces[0].Base = &b[0]
	t.pieces[0].SetLen(len(b))
	t.header.Iov = &t.pieces[0]
	t.header.SetIovlen(1)
	n, err := t.run()
	t.pieces[0] = unix.Iovec{}
	if n == 0 && err == nil || err == unix.ECONNRESET { // the peer closed it and had not read all
		err = io.EOF
	}
	return n, err
}

// listen says whether wait is to notice that something has arrived. It always notices the end.
func (s *socket) listen(on bool) {
	events := uint32(0)
	if on {
		events = unix.EPOLLIN | unix.EPOLLRDHUP
	}
	s.watch(&s.in, events)
}

// wait calls turn at once, and again whenever something may have changed, until it returns true.
func (s *socket) wait(turn func() bool) error {
	return s.in.raw.Read(func(uintptr) bool { return turn() })
}

// write may write less than all even if it may block.
func (s *socket) write(b [][]byte, block bool) (int, error) {
	n, err := s.tryWrite(b)
	switch {
	case err != errWait:
		return n, err
	case block:
		return s.waitWrite(b)
	}
	return 0, nil
}

func (s *socket) tryWrite(b [][]byte) (int, error) {
	t := &s.send
	n := 0
	for _, p := range b {
		if len(p) == 0 {
			continue
		}
		if n == len(t.pieces) {
			break
		}
		t.pieces[n].Base = &p[0]
		t.pieces[n].SetLen(len(p))
		n++
	}
	t.header.Iov = &t.pieces[0]
	t.header.SetIovlen(n)
	defer clear(t.pieces[:n])
	return t.run()
}

func (s *socket) waitWrite(b [][]byte) (n int, err error) {
	s.watch(&s.out, unix.EPOLLOUT)
	defer s.watch(&s.out, 0)
	if e := s.out.raw.Read(func(uintptr) bool { n, err = s.tryWrite(b); return err != errWait }); e != nil {
		return 0, net.ErrClosed
	}
	return n, err
}

func (s *socket) shut() {
	s.raw.Control(func(fd uintptr) { unix.Shutdown(int(fd), unix.SHUT_RDWR) })
	s.in.file.SetReadDeadline(time.Unix(1, 0))
	s.out.file.SetReadDeadline(time.Unix(1, 0))
}

// Close waits for turns to return.
func (s *socket) Close() error {
	s.shut()
	s.in.close()
	s.out.close()
	return s.file.Close()
}

// A watch is an epoll of one socket, and is itself watched by the runtime's poller.
type watch struct {
	file *os.File
	raw  syscall.RawConn
}

func newWatch(socket int) (w watch, err error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return w, err
	}
	err = unix.EpollCtl(fd, unix.EPOLL_CTL_ADD, socket, &unix.EpollEvent{Events: unix.EPOLLET})
	if err == nil {
		err = unix.SetNonblock(fd, true) // has NewFile tell the runtime's poller
	}
	if err != nil {
		unix.Close(fd)
		return w, err
	}
	w.file = os.NewFile(uintptr(fd), "epoll")
	w.raw, err = w.file.SyscallConn()
	return w, err
}

func (w watch) close() {
	if w.file != nil {
		w.file.Close()
	}
}

// watch changes what w looks for, and has it look at once.
func (s *socket) watch(w *watch, events uint32) {
	s.raw.Control(func(fd uintptr) {
		w.raw.Control(func(epoll uintptr) {
			// The kernel tells nobody of what is in its list of things to tell already, so that is emptied.
			var e unix.EpollEvent
			syscall.RawSyscall6(unix.SYS_EPOLL_PWAIT, epoll, uintptr(unsafe.Pointer(&e)), 1, 0, 0, 0)
			e = unix.EpollEvent{Events: events | unix.EPOLLET}
			unix.EpollCtl(int(epoll), unix.EPOLL_CTL_MOD, int(fd), &e)
		})
	})
}
