//! sysv/shm/
