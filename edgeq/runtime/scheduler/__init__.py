"""Who is answered when: admission, queue, memory, one worker."""
