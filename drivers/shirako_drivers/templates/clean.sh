# Takes all that is ours, or a guest's, off a node with accounts. As root; with ours.sh.

tear_down() {
  [ -z "$lease" ] || refuse_lookalike
  doomed=$(our_accounts)
  remove_accounts "" ""
  restore_files
  left=$({ { printf '%s\n' "$doomed"; our_accounts; } | sort -u | remains "" ""; unrestored; } |
    head -n 1)
  [ -z "$left" ] || fail "left: ${left#home }"
  rm -f "$state/account" || fail "$state/account cannot be removed"
  for check in account_gone home_gone keys_gone processes_gone files_gone files_restored; do
    give check "$check"
  done
}

# The job's own idea of the account counts least: the node knows what was made on it. An account of
# the same name is somebody else's, unless it has our number too and only lost its mark.
refuse_lookalike() {
  ours=$(our_accounts | awk -v name="$user" '$1 == name')
  [ -n "$ours" ] || [ "$(password_entry "$user" | cut -d : -f 3)" != "$uid" ] ||
    fail "an account $user with uid $uid exists here that is not marked as ours"
}

# All in $doomed but account $1 with number $2, and what bears a number of ours without account.
remove_accounts() {
  while read -r name number place; do
    [ -n "$name" ] && [ "$name" != "$1" ] || continue
    check_account "$name" "$number" "$place" "$2"
    remove_account "$name" "$number" "$place" "$2" </dev/null
  done <<END
$doomed
END
  for number in $(stray_uids); do
    [ "$number" != "$2" ] || continue
    end_processes "$number" "uid $number" ""
    remove_traces "$number"
    find /home -mindepth 1 -maxdepth 1 -uid "$number" -exec rm -rf -- {} +
  done
  for name in $(stray_groups); do
    [ "$name" = "$1" ] || groupdel -P /. "$name" || fail "the group $name stays"
  done
}

# What follows ends all processes of the number and removes the home: better nothing than too much.
check_account() {
  case $1 in [!a-z_]* | *[!a-z0-9_-]*) fail "an account of ours has a wrong name: $1" ;; esac
  case $2 in '' | *[!0-9]*) fail "the account $1 has a wrong number: $2" ;; esac
  [ "$2" -ge 1000 ] || fail "the account $1 has uid $2, which is the system's"
  [ "$3" = "/home/$1" ] || fail "the home of the account $1 is $3, not /home/$1: is it ours?"
  others=$(others_with "$2")
  [ "$2" = "$4" ] || [ -z "$others" ] || fail "uid $2 of the account $1 is also that of $others"
}

# Account $1 with number $2 and home $3; what bears the number stays when it is $4.
remove_account() {
  # Shut the door first: sshd reads the keys as the guest, who cannot enter this home any more.
  [ ! -d "$3" ] || { chown 0:0 "$3" && chmod 0 "$3"; }
  rm -f "/var/lib/systemd/linger/$1"
  if [ "$2" != "$4" ]; then
    [ ! -d /run/systemd/system ] || loginctl terminate-user "$1" 2>/dev/null
    end_processes "$2" "$1" "$1"
    # Where systemd made it, the guest's /run/user is a file system of its own.
    umount -l "/run/user/$2" 2>/dev/null
  fi
  # Files before the account: the guest may have filled the disk that /etc/passwd is on.
  rm -rf "$3" "$3.new" "/var/mail/$1" "/var/spool/cron/crontabs/$1"
  [ "$2" = "$4" ] || remove_traces "$2"
  # The tools remove whole accounts: one that was cut in half is completed first.
  [ -n "$(password_entry "$1")" ] || ! grep -qs "^$1:" /etc/shadow ||
    useradd -P /. -M -N -o -u "$2" "$1" || fail "the rest of the account $1 cannot be removed"
  if [ -n "$(password_entry "$1")" ]; then
    userdel -f -P /. "$1" || fail "the account $1 cannot be removed"
    say "account $1 removed"
  fi
  [ -z "$(group_entry "$1")" ] || groupdel -P /. "$1" || fail "the group $1 stays"
  # A login that was under way when the door was shut may have become a session since.
  [ "$2" = "$4" ] || end_processes "$2" "$1" "$1"
}

# Files and IPC objects of number $1.
remove_traces() {
  find_files -uid "$1" -prune -exec rm -rf -- {} +
  ipc_of "$1" | while read -r kind id; do
    case $kind in
      shm) ipcrm -m "$id" ;;
      msq) ipcrm -q "$id" ;;
      sem) ipcrm -s "$id" ;;
    esac
  done
}

# Processes of number $1, called $2; $3 is the account's name, if it has one.
end_processes() {
  found=$(processes_of "$1" "$3" | sort -u | wc -l)
  [ "$found" -gt 0 ] || return 0
  # One call reaches all of them, also those that fork faster than a list of them is read.
  as_uid "$1" sh -c 'kill -KILL -1' >/dev/null 2>&1
  kill_all processes_of "$1" "$3" || fail "processes of $2 cannot be ended"
  say "$found processes of $2 ended"
}

restore_files() {
  [ ! -d "$state/saved" ] || find "$state/saved" ! -type d ! -name '*.new' | while IFS= read -r kept; do
    original=${kept#"$state/saved"}
    cp -a "$kept" "$original.shirako" && mv -f "$original.shirako" "$original" || exit 1
  done || fail "a file of the node cannot be restored"
  [ ! -d "$state/absent" ] || find "$state/absent" -type f | while IFS= read -r kept; do
    original=${kept#"$state/absent"}
    rm -f "$original" "$original.shirako" || exit 1
  done || fail "a rendered file cannot be removed"
  if [ -s "$state/hostname" ]; then
    hostname "$(cat "$state/hostname")" || fail "the host name cannot be restored"
  fi
  rm -rf "$state/saved" "$state/absent" "$state/hostname"
}
