"""Bundles on the device: a store of versions, one of which is current; switched in one step, and back again.

    ROOT/
      store.json           says that this directory is a store
      lock                 held by the process that changes anything; the kernel lets go of it when the process ends
      objects/ab/ab12...   every file once, named by its SHA-256, never written to again
      versions/ID/         a bundle: hard links to objects. ID is the SHA-256 of its manifest
      records/ID.json      when it came, from where, and why it failed
      states/7/            links `current` and `previous`; `back` while `current` is on trial
      state -> states/7    the one link that is ever replaced
      current -> state/current, previous -> state/previous    never changed
      staging/             what is being made

Why one link: two links (`current` and `previous`) cannot be replaced in one step, so a power cut between them would
leave a pair that nobody chose. Here a state is a directory that is complete and on the disk before it is named, and
never changed afterwards. rename(2) puts `state` on it; POSIX says that a reader finds the old name or the new one.

What is on the disk before the rename, in this order: the bytes of every object (fsync of the file), the names of the
objects (fsync of their directory), the version (a directory made under another name, synced, renamed, its parent
synced), the record, the state (likewise). After the rename the root is synced. A power cut at any point thus leaves the
old state or the new one, and either names whole versions only.

Whatever no state and no version refers to is rubbish, and is swept away by the next operation: an object that has one
name only is in no version.
"""
